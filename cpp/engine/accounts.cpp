#include "engine/accounts.h"

#include <algorithm>
#include <utility>

#include "engine/step_times.h"

namespace frspec {

Accounts::Accounts(EngineParts& parts, PassBudget& budget) : parts_(parts), budget_(budget) {
  tuned_.reserve(static_cast<std::size_t>(parts.max_size));
}

void Accounts::note_times(Step& step) const {
  const auto seconds = [&](StepTime first, StepTime second) {
    return parts_.backend->instruments().seconds_between(time_point(step.slot, first), time_point(step.slot, second));
  };
  if (step.drafted || step.read_rows > 0) {
    step.read_seconds = seconds(kStart, kRead);
    step.grown_seconds = seconds(kRead, kDrafted);
  }
  step.target_seconds = seconds(kDrafted, kVerified);
  step.head_seconds = parts_.drafting ? parts_.drafting->head_seconds() : 0.0;
}

bool Accounts::tells_planner(const Sequence& sequence, const Step& step) {
  const DraftMode draft = sequence.options().draft;
  return draft != DraftMode::Never && draft != DraftMode::Watch && (!step.forced || step.drafted);
}

void Accounts::add(Sequence& sequence, Place& place, const Step& step, const Verdict& verdict) {
  Tuner::Step& tuned = tuned_;
  tuned.begin();
  tuned.plan = step.plan;
  tuned.pass = step.pass;
  if (step.growing != nullptr) tuned.growing = *step.growing;
  tuned.drafted = step.drafted && step.plan.drafts;
  tuned.rows = step.tree->size();
  tuned.read_rows = step.read_rows;
  tuned.read_seconds = step.read_seconds;
  tuned.grown_seconds = step.grown_seconds;
  tuned.target_seconds = step.pass_is_counted ? 0.0 : step.target_seconds;
  if (step.drafted && !step.forced) {
    parts_.planner->look_at(tuned, *step.tree, verdict, parts_.drafting->drafter(), *parts_.backend);
  }
  Stats& stats = sequence.stats();
  stats.draft_seconds += tuned.read_seconds + tuned.grown_seconds;
  stats.verify_seconds += tuned.target_seconds;
  ++stats.steps;
  stats.drafted_steps += step.tree->size() > 1 ? 1 : 0;  // n-grams often find nothing
  stats.drafted_tokens += step.tree->size() - 1;
  if (step.forced) stats.forced_tokens += static_cast<std::int64_t>(verdict.nodes.size()) - 1;
  stats.step_tokens += static_cast<std::int64_t>(sequence.fresh().size()) + (sequence.ended_by_token() ? 1 : 0);
  if (sequence.options().trace) sequence.add(trace_of(sequence, place, step, verdict));
  if (parts_.planner && tells_planner(sequence, step)) parts_.planner->tuner().add(tuned);
  if (step.pass.texts > 1 || step.pass.rows > 0 || !(tuned.target_seconds > 0.0)) return;
  budget_.note(tuned.rows, tuned.rows, tuned.target_seconds);
}

// The total comes when the step is over.
StepTrace Accounts::trace_of(const Sequence& sequence, Place& place, const Step& step, const Verdict& verdict) {
  StepTrace trace;
  for (const GeneratedToken& token : sequence.fresh()) trace.tokens.push_back(token.id);
  trace.accepted = static_cast<int>(verdict.nodes.size()) - 1;
  trace.nodes = step.tree->size();
  if (step.drafted && trace.nodes > 1) {
    trace.offered = children_of(*parts_.backend, step.tree->view(), verdict.nodes.back());
    const TokenId said = verdict.tokens.back();
    if (said >= 0) trace.in_subset = parts_.drafting->drafter().could_offer(said);
  }
  trace.watched = std::move(place.watched);
  trace.head_seconds = step.head_seconds;
  trace.transformer_seconds = std::max(0.0, tuned_.read_seconds + tuned_.grown_seconds - trace.head_seconds);
  trace.verify_seconds = tuned_.target_seconds;
  return trace;
}

void Accounts::close(Sequence& sequence, const Place& place, bool reads, double seconds) const {
  Stats& stats = sequence.stats();
  stats.drafter_error = place.draft.error;
  stats.total_seconds += seconds;
  if (reads) {
    stats.prefill_seconds += seconds;
  } else if (sequence.options().trace) {
    sequence.set_step_seconds(seconds);
  }
}

}  // namespace frspec
