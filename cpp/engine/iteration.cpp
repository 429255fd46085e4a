#include "engine/iteration.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/step_times.h"

namespace frspec {

Iteration::Iteration(EngineParts& parts, Places& places, PassBudget& budget)
    : parts_(parts), places_(places), budget_(budget), proposer_(parts, places), accounts_(parts, budget) {}

void Iteration::run(Sequence& sequence) {
  places_.current().rejection = {sequence.options().sampling.seed, static_cast<std::uint32_t>(sequence.stats().steps)};
  Step step = next(sequence);
  const Verdict& verdict = parts_.runner->verifier().read(step.slot);  // the one copy from the device
  accounts_.note_times(step);
  take(sequence, step, verdict);
}

// Gives the device a step to do. `unseen`: the step before it, whose verdict the host has not seen; null: it has.
Step Iteration::begin(Sequence& sequence, int slot, const Step* unseen) {
  TargetRunner& runner = *parts_.runner;
  const auto note_time = [&](StepTime time) { parts_.backend->instruments().note_time(time_point(slot, time)); };
  Step step;
  step.slot = slot;
  step.limits = sequence.options().limits;
  step.piece = std::max(parts_.batch, budget_.drafter_rows());
  note_time(kStart);
  proposer_.propose(sequence, step, unseen);
  note_time(kDrafted);
  runner.forward(*step.tree);
  step.states = parts_.target->hidden(step.tree->size());
  step.features = parts_.target->features(step.tree->size());
  step.verdict = &verify(sequence, step);
  runner.commit(*step.tree, *step.verdict);
  note_time(kVerified);
  runner.verifier().post(slot);
  return step;
}

const VerdictView& Iteration::verify(const Sequence& sequence, const Step& step) {
  const GenerateOptions& options = sequence.options();
  const Place& place = places_.current();
  Verifier& verifier = parts_.runner->verifier();
  if (step.drafted && options.verify != VerifyMode::Keyed) {
    const bool is_block = options.verify == VerifyMode::Block;
    return verifier.verify_by_rejection(*step.tree, place.sampler, place.rejection, is_block);
  }
  if (!options.logits_processor) return verifier.verify(*step.tree, step.states, place.sampler);
  return verifier.verify(*step.tree, step.states, place.sampler, options.logits_processor, sequence.tokens());
}

void Iteration::take(Sequence& sequence, const Step& step, const Verdict& verdict) {
  Place& place = places_.current();
  const int rows = static_cast<int>(verdict.tokens.size());
  sequence.append(verdict.tokens);
  place.committed += rows;
  if (!step.is_first) accounts_.add(sequence, place, step, verdict);
  if (sequence.options().logprobs) note_logprobs(sequence, step, rows);
  if (place.draft.works()) accept(place, step, rows);
}

void Iteration::note_logprobs(Sequence& sequence, const Step& step, int rows) {
  const int best = *sequence.options().logprobs;
  for (TokenLogprobs& found :
       parts_.runner->logprobs(step.states, *step.verdict, rows, sequence.fresh().size(), best)) {
    sequence.add(std::move(found));
  }
}

// Tells the drafter what the sequence has more. The states it reads when it is asked again; or it has already, where
// the next step has begun.
void Iteration::accept(Place& place, const Step& step, int rows) {
  // The text ends with the token that the target has not processed yet: the next root.
  const std::span<const TokenId> text = place.tokens();
  const auto count = static_cast<std::size_t>(rows);
  const auto tokens = text.last(count), committed = text.last(count + 1).first(count);
  parts_.drafting->extend(place.draft, {tokens, committed, parts_.runner->verifier().candidates()});
  if (place.ahead) return;
  const std::int32_t* end = parts_.runner->token(text.size());
  parts_.drafting->remember(place.draft, step.features, *step.verdict, rows, end);
}

void Iteration::close(Sequence& sequence, bool reads, double seconds) {
  accounts_.close(sequence, places_.current(), reads, seconds);
  close(sequence);
}

void Iteration::close(Sequence& sequence) {
  const bool ended = sequence.finish_reason() != FinishReason::None;
  Stats& stats = sequence.stats();
  if (ended && parts_.planner) {
    stats.tuning = parts_.planner->found();
    parts_.planner->keep();
  }
  if (ended) places_.end(sequence);
  if (!parts_.ranks || !counts_) return;
  std::vector<TokenId> written;
  for (const GeneratedToken& token : sequence.fresh()) written.push_back(token.id);
  parts_.ranks->count(written);
  if (ended) stats.adapt_error = parts_.ranks->save_if_due();
}

// The step whose verdict is seen next. The one behind it is begun before that, where that may be, on a device that
// works by itself: so is hidden what the host does between two steps.
Step Iteration::next(Sequence& sequence) {
  std::optional<Step>& ahead = places_.current().ahead;
  const Step step = ahead ? *std::exchange(ahead, std::nullopt) : begin(sequence, 0, nullptr);
  if (may_go_ahead(sequence, step)) ahead = begin(sequence, 1 - step.slot, &step);
  return step;
}

// Nothing that the host decides may depend on the verdict, and the next step must be wanted whatever it says, but for
// the end of the sequence.
bool Iteration::may_go_ahead(const Sequence& sequence, const Step& step) const {
  const GenerateOptions& options = sequence.options();
  if (places_.are_several() || !parts_.backend->capabilities().asynchronous || options.verify != VerifyMode::Keyed ||
      options.logits_processor || options.grammar || options.limits.any() || options.logprobs || options.trace ||
      parts_.runner->verifier().needs_logits()) {
    return false;
  }
  if (places_.current().draft.works() && (!step.drafted || !parts_.drafting->drafter().follows_device() ||
                                          !parts_.planner->is_steady(options, step.plan))) {
    return false;
  }
  const std::int64_t most = step.drafted ? step.tree->view().max_depth + 1 : 1;  // tokens of a step
  return sequence.tokens_left() > most && sequence.room_left() > 2 * most;
}

}  // namespace frspec
