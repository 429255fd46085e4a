// One step of a sequence. It reads as the papers do: draft, verify, commit, accept.
#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/step_times.h"

namespace frspec {

void Engine::iterate(Sequence& sequence) {
  place_.rejection = {sequence.options().sampling.seed, static_cast<std::uint32_t>(sequence.stats().steps)};
  const Step step = next_step(sequence);
  const Verdict& verdict = runner_->verifier().read(step.slot);  // the one copy from the device
  sequence.append(verdict.tokens);
  place_.text.insert(place_.text.end(), verdict.tokens.begin(), verdict.tokens.end());
  place_.committed += static_cast<std::int32_t>(verdict.tokens.size());
  place_.wanted = static_cast<std::int32_t>(sequence.tokens().size());
  learn(sequence, step, verdict);
  accept(step, verdict);
}

// Gives the device a step to do. `unseen`: the step before it, whose verdict the host has not seen; null: it has.
Engine::Step Engine::begin_step(Sequence& sequence, int slot, const Step* unseen) {
  const auto note_time = [&](StepTime time) { backend_->instruments().note_time(time_point(slot, time)); };
  Step step;
  step.slot = slot;
  note_time(kStart);
  draft(sequence, step, unseen);
  note_time(kDrafted);
  runner_->forward(*step.tree);
  step.verdict = &verify(sequence, step);
  runner_->commit(*step.tree, *step.verdict);
  note_time(kVerified);
  runner_->verifier().post(slot);
  return step;
}

// A tree behind the last token: the drafter's, or that token alone.
void Engine::draft(const Sequence& sequence, Step& step, const Step* unseen) {
  const GenerateOptions& options = sequence.options();
  const bool watches = options.draft == DraftMode::Watch;
  if (place_.draft.works()) {
    const bool again = unseen != nullptr && unseen->plan.planned && unseen->drafted;
    step.plan = again ? planner_->tuner().again() : planner_->next(options, sequence.stats().steps);
    drafting_->time_head(options.trace);
    WideGrowth wide;
    Growth* growth = watches ? &wide : planner_->growth(options);
    // What the text repeats costs nothing to look up.
    const bool repeats = growth != nullptr && step.plan.planned && drafting_->drafter().repeats();
    if (step.plan.drafts && unseen != nullptr) {
      drafting_->follow(place_.draft, unseen->tree->view(), runner_->path(), unseen->verdict->count);
    } else if (step.plan.drafts) {
      step.told = place_.draft.rows;
      drafting_->catch_up(place_.draft, runner_->token(place_.text.size()));
    }
    backend_->instruments().note_time(time_point(step.slot, kTold));
    if (step.plan.drafts || repeats) step.tree = propose(step.plan, growth);
    if (watches && step.tree != nullptr) place_.watched = watched_nodes(*backend_, *std::exchange(step.tree, nullptr));
  }
  step.drafted = step.tree != nullptr;
  if (!step.drafted) step.tree = &runner_->root_alone();
}

const DraftTree* Engine::propose(const Tuner::Plan& plan, Growth* growth) {
  Tuner& tuner = planner_->tuner();
  if (tuner.grows()) tuner.begin_growth(plan);
  const DraftTree* tree = drafting_->propose(place_.draft, plan.arm, growth);
  if (tuner.grows()) tuner.end_growth();
  return tree;
}

const VerdictView& Engine::verify(const Sequence& sequence, const Step& step) {
  const GenerateOptions& options = sequence.options();
  Verifier& verifier = runner_->verifier();
  if (step.drafted && options.verify != VerifyMode::Keyed) {
    return verifier.verify_by_rejection(*step.tree, place_.sampler, place_.rejection,
                                        options.verify == VerifyMode::Block);
  }
  if (!options.logits_processor) return verifier.verify(*step.tree, place_.sampler);
  return verifier.verify(*step.tree, place_.sampler, options.logits_processor, sequence.tokens());
}

// Tells the drafter what the sequence has more. The states it reads when it is asked again; or it has already, where
// the next step has begun.
void Engine::accept(const Step& step, const Verdict& verdict) {
  if (!place_.draft.works()) return;
  // The text ends with the token that the target has not processed yet: the next root.
  const std::span<const TokenId> text = place_.text;
  const std::size_t rows = verdict.tokens.size();
  const auto tokens = text.last(rows), committed = text.last(rows + 1).first(rows);
  drafting_->extend(place_.draft, {tokens, committed, runner_->verifier().candidates()});
  if (place_.ahead) return;
  drafting_->remember(place_.draft, step.tree->view(), *step.verdict, static_cast<int>(rows),
                      runner_->token(text.size()));
}

// What a step has cost and what it has shown.
void Engine::learn(Sequence& sequence, const Step& step, const Verdict& verdict) {
  const GenerateOptions& options = sequence.options();
  const auto seconds = [&](StepTime first, StepTime second) {
    return backend_->instruments().seconds_between(time_point(step.slot, first), time_point(step.slot, second));
  };
  Tuner::Step& tuned = place_.tuned;
  tuned.begin();
  tuned.plan = step.plan;
  tuned.drafted = step.drafted && step.plan.drafts;
  tuned.rows = step.tree->size();
  tuned.told = step.told;
  if (step.drafted) {
    tuned.told_seconds = seconds(kStart, kTold);
    tuned.grown_seconds = seconds(kTold, kDrafted);
    planner_->look_at(tuned, *step.tree, verdict, drafting_->drafter(), *backend_);
  }
  tuned.target_seconds = seconds(kDrafted, kVerified);
  Stats& stats = sequence.stats();
  stats.draft_seconds += tuned.told_seconds + tuned.grown_seconds;
  stats.verify_seconds += tuned.target_seconds;
  ++stats.steps;
  stats.drafted_steps += step.drafted && step.tree->size() > 1 ? 1 : 0;  // n-grams often find nothing
  stats.step_tokens += static_cast<std::int64_t>(sequence.fresh().size()) + (sequence.ended_by_token() ? 1 : 0);
  if (options.trace) sequence.add(trace_of(sequence, step, verdict));
  const bool tells = options.draft != DraftMode::Never && options.draft != DraftMode::Watch;
  if (planner_ && tells) planner_->tuner().add(tuned);
  if (!options.logprobs) return;
  const int rows = static_cast<int>(verdict.tokens.size());
  for (TokenLogprobs& found :
       runner_->logprobs(*step.tree, *step.verdict, rows, sequence.fresh().size(), *options.logprobs)) {
    sequence.add(std::move(found));
  }
}

// Before the drafter is told of the verdict: its head may follow the text. The total comes when the step is over.
StepTrace Engine::trace_of(const Sequence& sequence, const Step& step, const Verdict& verdict) {
  StepTrace trace;
  for (const GeneratedToken& token : sequence.fresh()) trace.tokens.push_back(token.id);
  trace.accepted = static_cast<int>(verdict.nodes.size()) - 1;
  trace.nodes = step.tree->size();
  if (step.drafted && trace.nodes > 1) {
    trace.offered = children_of(*backend_, step.tree->view(), verdict.nodes.back());
    if (verdict.tokens.back() >= 0) trace.in_subset = drafting_->drafter().could_offer(verdict.tokens.back());
  }
  trace.watched = std::move(place_.watched);
  trace.head_seconds = drafting_ ? drafting_->head_seconds() : 0.0;
  const Tuner::Step& tuned = place_.tuned;
  trace.transformer_seconds = std::max(0.0, tuned.told_seconds + tuned.grown_seconds - trace.head_seconds);
  trace.verify_seconds = tuned.target_seconds;
  return trace;
}

// The prompt, chunk by chunk, through target and drafter. The drafter's pair at a position needs the token that
// follows, which for the prompt's last position is the first token of the text.
bool Engine::read_prompt(Sequence& sequence) {
  const GenerateOptions& options = sequence.options();
  const std::vector<TokenId> prompt(sequence.prompt().begin(), sequence.prompt().end());
  const std::int64_t tokens = sequence.stats().prompt_tokens + std::min(sequence.tokens_left(), sequence.room_left());
  place_.reuse = {options.reuse, options.salt, place_.draft.works() && drafting_->drafter().reads_states()};
  place_.text = prompt;
  place_.committed = runner_->begin(prompt, tokens, place_.reuse);
  sequence.stats().cached_tokens = place_.committed;
  begin_drafting(sequence);
  if (place_.draft.works()) drafting_->resume(place_.draft, place_.committed);
  for (auto first = static_cast<std::size_t>(place_.committed); first < prompt.size();) {
    const std::size_t border = runner_->next_state(first, prompt.size());
    const std::size_t end = std::min(first + static_cast<std::size_t>(batch_), border > 0 ? border : prompt.size());
    const int rows = static_cast<int>(end - first);
    if (!runner_->read(first, rows, [&] { return sequence.goes_on(); })) return false;
    runner_->commit_rows(rows);
    if (end == border) runner_->keep_state(std::span(prompt).first(end), place_.reuse);
    if (end == prompt.size()) append_first(sequence, rows);
    if (place_.draft.works()) drafting_->read(place_.draft, rows, runner_->token(first + 1));
    place_.committed += rows;
    first = end;
  }
  if (place_.draft.works()) drafting_->extend(place_.draft, {sequence.tokens(), prompt});
  return true;
}

// The token behind the prompt, of which the last pass had the last `rows` tokens.
void Engine::append_first(Sequence& sequence, int rows) {
  const GenerateOptions& options = sequence.options();
  const std::size_t length = sequence.prompt().size();
  const std::array first = {
      runner_->sample_first(rows, length, place_.sampler, options.logits_processor, sequence.prompt())};
  place_.text.push_back(first[0]);
  sequence.append(first);
  place_.wanted = static_cast<std::int32_t>(sequence.tokens().size());
  if (!options.logprobs) return;
  for (TokenLogprobs& found : runner_->logprobs_of_root(rows, length, sequence.fresh().size(), *options.logprobs)) {
    sequence.add(std::move(found));
  }
}

void Engine::begin_drafting(Sequence& sequence) {
  const GenerateOptions& options = sequence.options();
  if (planner_) planner_->tuner().begin_text(options.sampling.temperature > 0.0f);
  if (!place_.draft.works()) return;
  const auto start = Clock::now();
  const std::int64_t replaced = ranks_ ? ranks_->replaced() : 0;
  drafting_->begin(place_.draft, {&place_.sampler.chain(), place_.sampler.draw(), runner_->sequence(),
                                  options.verify == VerifyMode::Keyed ? nullptr : &place_.rejection, place_.reuse});
  if (!ranks_) return;
  sequence.stats().adapted_rows = ranks_->replaced() - replaced;
  sequence.stats().adapt_seconds = seconds_since(start);
}

// The caller holds the lock.
void Engine::advance(Sequence& sequence) {
  if (sequence.cancelled()) {
    sequence.finish(FinishReason::Cancelled);
    return close_step(sequence);
  }
  if (place_.owner != sequence.id()) {
    throw Error("this generation cannot go on: it was interrupted, or its engine began another text");
  }
  const auto start = Clock::now();
  const bool reads = !std::exchange(place_.read, true);
  // Nobody's until the step is whole: after an error, or half a prompt, the caches are of no use.
  place_.owner = 0;
  bool whole = true;
  if (reads) {
    whole = read_prompt(sequence);
  } else {
    iterate(sequence);
  }
  if (whole) place_.owner = sequence.id();
  if (!whole && sequence.cancelled()) sequence.finish(FinishReason::Cancelled);
  Stats& stats = sequence.stats();
  stats.drafter_error = place_.draft.error;
  const double seconds = seconds_since(start);
  if (reads) {
    stats.prefill_seconds = seconds;
  } else if (sequence.options().trace) {
    sequence.set_step_seconds(seconds);
  }
  stats.total_seconds += seconds;
  close_step(sequence);
}

}  // namespace frspec
