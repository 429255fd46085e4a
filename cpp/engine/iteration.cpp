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
namespace {

// What the text is predicted to be, behind the end of its prompt: so it is found at once.
std::vector<TokenId> predicted(const Sequence& sequence) {
  const std::vector<TokenId>& prediction = sequence.options().prediction;
  if (prediction.empty()) return {};
  const std::span<const TokenId> prompt = sequence.prompt();
  const auto end = prompt.last(std::min<std::size_t>(prompt.size(), kNgram));
  std::vector<TokenId> found(end.begin(), end.end());
  found.insert(found.end(), prediction.begin(), prediction.end());
  return found;
}

}  // namespace

void Engine::iterate(Sequence& sequence) {
  place_->rejection = {sequence.options().sampling.seed, static_cast<std::uint32_t>(sequence.stats().steps)};
  Step step = next_step(sequence);
  const Verdict& verdict = runner_->verifier().read(step.slot);  // the one copy from the device
  note_times(step);
  take(sequence, step, verdict);
}

// What the step has given.
void Engine::take(Sequence& sequence, const Step& step, const Verdict& verdict) {
  sequence.append(verdict.tokens);
  place_->text.insert(place_->text.end(), verdict.tokens.begin(), verdict.tokens.end());
  place_->committed += static_cast<std::int32_t>(verdict.tokens.size());
  place_->wanted = static_cast<std::int32_t>(sequence.tokens().size());
  learn(sequence, step, verdict);
  accept(step, verdict);
}

// Gives the device a step to do. `unseen`: the step before it, whose verdict the host has not seen; null: it has.
Engine::Step Engine::begin_step(Sequence& sequence, int slot, const Step* unseen) {
  const auto note_time = [&](StepTime time) { backend_->instruments().note_time(time_point(slot, time)); };
  Step step;
  step.slot = slot;
  step.limits = sequence.options().limits;
  step.piece = std::max(batch_, drafter_piece());
  note_time(kStart);
  draft(sequence, step, unseen);
  note_time(kDrafted);
  runner_->forward(*step.tree);
  step.states = target_->hidden(step.tree->size());
  step.features = target_->features(step.tree->size());
  step.verdict = &verify(sequence, step);
  runner_->commit(*step.tree, *step.verdict);
  note_time(kVerified);
  runner_->verifier().post(slot);
  return step;
}

// A tree behind the last token: what the grammar forces, or what it leaves of the drafter's, or that token alone.
void Engine::draft(const Sequence& sequence, Step& step, const Step* unseen) {
  const bool is_guided = sequence.options().grammar != nullptr;
  if (is_guided && draft_forced(sequence, step)) return;
  // Where there is no room for drafts none are made, unless they are a part of what a seed gives.
  const bool has_room = step.limits.most != 0 || sequence.options().verify != VerifyMode::Keyed;
  if (place_->draft.works()) {
    planner_->write_among(step.company, sequence.options().sampling.temperature > 0.0f);
    if (has_room) ask_drafter(sequence, step, unseen);
  }
  step.drafted = step.tree != nullptr;
  if (!step.drafted) step.tree = &runner_->root_alone();
  if (is_guided) guide(sequence, step);
}

void Engine::ask_drafter(const Sequence& sequence, Step& step, const Step* unseen) {
  const GenerateOptions& options = sequence.options();
  const bool watches = options.draft == DraftMode::Watch;
  const bool again = unseen != nullptr && unseen->plan.planned && unseen->drafted;
  const std::int32_t* end = runner_->token(place_->text.size());
  step.plan =
      again ? planner_->tuner().again() : planner_->next(options, sequence.stats().steps, outlook(sequence, step));
  drafting_->time_head(options.trace);
  WideGrowth wide;
  Growth* growth = watches ? &wide : planner_->growth(options);
  // What the text repeats costs nothing to look up.
  const bool repeats = growth != nullptr && step.plan.planned && drafting_->drafter().repeats();
  if (step.plan.drafts && unseen != nullptr) {
    drafting_->follow(place_->draft, unseen->tree->view(), runner_->path(), unseen->verdict->count);
  } else if (step.plan.drafts) {
    step.told = drafting_->unread(place_->draft);
    drafting_->catch_up(place_->draft, end);
  } else if (step.plan.reads > 0) {
    step.told = drafting_->read_ahead(place_->draft, step.plan.reads, end);
  }
  backend_->instruments().note_time(time_point(step.slot, kTold));
  if (step.plan.drafts || repeats) step.tree = propose(step, growth);
  if (watches && step.tree != nullptr) place_->watched = watched_nodes(*backend_, *std::exchange(step.tree, nullptr));
}

// What decides whether it is worth a draft.
Tuner::Outlook Engine::outlook(const Sequence& sequence, const Step& step) {
  return {.id = sequence.id(),
          .written = sequence.stats().generated_tokens,
          .left = std::min(sequence.tokens_left(), sequence.room_left()),
          .piece = step.piece,
          .unread = [this] { return drafting_->unread(place_->draft); }};
}

const DraftTree* Engine::propose(Step& step, Growth* growth) {
  Tuner& tuner = planner_->tuner();
  if (tuner.grows()) tuner.begin_growth(step.plan);
  std::optional<LimitedGrowth> limited;
  if (growth != nullptr && step.limits.any()) growth = &limited.emplace(*growth, step.limits);
  const DraftTree* tree = drafting_->propose(place_->draft, step.plan.arm, growth);
  if (tree != nullptr) tree = cut(*tree, step.limits);
  if (tuner.grows()) {
    Tuner::Growing& growing = place_->growing[static_cast<std::size_t>(step.slot)];
    growing = tuner.end_growth();
    step.growing = &growing;
  }
  return tree;
}

// The first nodes of a tree, as many as the limits leave.
const DraftTree* Engine::cut(const DraftTree& tree, const DraftLimits& limits) {
  const auto size = static_cast<std::size_t>(1 + limits.of(tree.size() - 1));
  if (std::cmp_equal(size, tree.size())) return &tree;
  read_nodes(*backend_, tree.view(), cut_tokens_, cut_parents_);
  const std::span<const NodeNote> notes = tree.notes();
  place_->tree.assign(*backend_, std::span(cut_tokens_).first(size), std::span(cut_parents_).first(size),
                      notes.first(std::min(size, notes.size())));
  place_->tree.set_allowed({});
  place_->tree.set_proposals(tree.proposals());
  return &place_->tree;
}

const VerdictView& Engine::verify(const Sequence& sequence, const Step& step) {
  const GenerateOptions& options = sequence.options();
  Verifier& verifier = runner_->verifier();
  if (step.drafted && options.verify != VerifyMode::Keyed) {
    return verifier.verify_by_rejection(*step.tree, place_->sampler, place_->rejection,
                                        options.verify == VerifyMode::Block);
  }
  if (!options.logits_processor) return verifier.verify(*step.tree, step.states, place_->sampler);
  return verifier.verify(*step.tree, step.states, place_->sampler, options.logits_processor, sequence.tokens());
}

// Tells the drafter what the sequence has more. The states it reads when it is asked again; or it has already, where
// the next step has begun.
void Engine::accept(const Step& step, const Verdict& verdict) {
  if (!place_->draft.works()) return;
  // The text ends with the token that the target has not processed yet: the next root.
  const std::span<const TokenId> text = place_->text;
  const std::size_t rows = verdict.tokens.size();
  const auto tokens = text.last(rows), committed = text.last(rows + 1).first(rows);
  drafting_->extend(place_->draft, {tokens, committed, runner_->verifier().candidates()});
  if (place_->ahead) return;
  drafting_->remember(place_->draft, step.features, *step.verdict, static_cast<int>(rows), runner_->token(text.size()));
}

// What a step has taken, where the device noted it.
void Engine::note_times(Step& step) {
  const auto seconds = [&](StepTime first, StepTime second) {
    return backend_->instruments().seconds_between(time_point(step.slot, first), time_point(step.slot, second));
  };
  if (step.drafted || step.told > 0) {
    step.told_seconds = seconds(kStart, kTold);
    step.grown_seconds = seconds(kTold, kDrafted);
  }
  step.target_seconds = seconds(kDrafted, kVerified);
  step.head_seconds = drafting_ ? drafting_->head_seconds() : 0.0;
}

// What a step has cost and what it has shown.
void Engine::learn(Sequence& sequence, const Step& step, const Verdict& verdict) {
  const GenerateOptions& options = sequence.options();
  if (!step.is_first) learn_costs(sequence, step, verdict);
  if (!options.logprobs) return;
  const int rows = static_cast<int>(verdict.tokens.size());
  for (TokenLogprobs& found :
       runner_->logprobs(step.states, *step.verdict, rows, sequence.fresh().size(), *options.logprobs)) {
    sequence.add(std::move(found));
  }
}

bool Engine::tells_planner(const Sequence& sequence, const Step& step) {
  const DraftMode draft = sequence.options().draft;
  return draft != DraftMode::Never && draft != DraftMode::Watch && (!step.forced || step.drafted);
}

void Engine::learn_costs(Sequence& sequence, const Step& step, const Verdict& verdict) {
  const GenerateOptions& options = sequence.options();
  Tuner::Step& tuned = tuned_;
  tuned.begin();
  tuned.plan = step.plan;
  tuned.company = step.company;
  if (step.growing != nullptr) tuned.growing = *step.growing;
  tuned.drafted = step.drafted && step.plan.drafts;
  tuned.rows = step.tree->size();
  tuned.told = step.told;
  tuned.told_seconds = step.told_seconds;
  tuned.grown_seconds = step.grown_seconds;
  tuned.target_seconds = step.told_of_pass ? 0.0 : step.target_seconds;
  if (step.drafted && !step.forced) planner_->look_at(tuned, *step.tree, verdict, drafting_->drafter(), *backend_);
  Stats& stats = sequence.stats();
  stats.draft_seconds += tuned.told_seconds + tuned.grown_seconds;
  stats.verify_seconds += tuned.target_seconds;
  ++stats.steps;
  stats.drafted_steps += step.tree->size() > 1 ? 1 : 0;  // n-grams often find nothing
  stats.drafted_tokens += step.tree->size() - 1;
  if (step.forced) stats.forced_tokens += static_cast<std::int64_t>(verdict.nodes.size()) - 1;
  stats.step_tokens += static_cast<std::int64_t>(sequence.fresh().size()) + (sequence.ended_by_token() ? 1 : 0);
  if (options.trace) sequence.add(trace_of(sequence, step, verdict));
  if (planner_ && tells_planner(sequence, step)) planner_->tuner().add(tuned);
  if (step.company.texts > 1 || step.company.rows > 0 || !(tuned.target_seconds > 0.0)) return;
  note_pass(tuned.rows, tuned.rows, tuned.target_seconds);
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
  trace.watched = std::move(place_->watched);
  trace.head_seconds = step.head_seconds;
  const Tuner::Step& tuned = tuned_;
  trace.transformer_seconds = std::max(0.0, tuned.told_seconds + tuned.grown_seconds - trace.head_seconds);
  trace.verify_seconds = tuned.target_seconds;
  return trace;
}

// What is to be read: the prompt, and what was written behind it already, if that was displaced from the caches.
void Engine::begin_reading(Sequence& sequence) {
  const GenerateOptions& options = sequence.options();
  // A step may give tokens behind the last one that is wanted.
  place_->text.reserve(most_tokens(sequence));
  place_->text.assign(sequence.tokens().begin(), sequence.tokens().end());
  place_->reuse = {options.reuse, options.salt, place_->draft.works() && drafting_->drafter().reads_states()};
  place_->committed = runner_->begin(place_->text, place_->reuse);
  place_->begun = true;
  if (sequence.stats().generated_tokens == 0) sequence.stats().cached_tokens = place_->committed;
  sequence.stats().read_tokens = place_->committed;
  begin_drafting(sequence);
  if (place_->draft.works()) drafting_->resume(place_->draft, place_->committed);
}

// It, chunk by chunk, through target and drafter. The drafter's pair at a position needs the token that follows, which
// for the last position is the one that comes of it.
bool Engine::read_prompt(Sequence& sequence) {
  const std::vector<TokenId> known = place_->text;
  for (auto first = static_cast<std::size_t>(place_->committed); first < known.size();) {
    const std::size_t border = runner_->next_state(first, known.size());
    const std::size_t end = std::min(first + static_cast<std::size_t>(batch_), border > 0 ? border : known.size());
    const int rows = static_cast<int>(end - first);
    if (!runner_->read(first, rows, [&] { return sequence.goes_on(); })) {
      if (runner_->keeps_states()) {
        // Some layers' states have read these rows, others' have not: it begins again, from what was kept.
        const bool told = !drafting_ || !drafting_->drafter().reads_states() || place_->draft.works();
        runner_->leave(place_->text, place_->committed, told ? place_->committed : 0, place_->reuse);
        drop(*place_);
      }
      return false;
    }
    runner_->commit_rows(rows);
    if (end == border) runner_->keep_state(std::span(known).first(end), place_->reuse);
    if (end == known.size()) append_first(sequence, rows);
    if (place_->draft.works()) drafting_->read(place_->draft, target_->features(rows), runner_->token(first + 1));
    place_->committed += rows;
    sequence.stats().read_tokens = place_->committed;
    first = end;
  }
  if (place_->draft.works()) drafting_->extend(place_->draft, {place_->text, known});
  return true;
}

// The token behind the prompt, of which the last pass had the last `rows` tokens.
void Engine::append_first(Sequence& sequence, int rows) {
  const GenerateOptions& options = sequence.options();
  const std::size_t length = place_->text.size();
  const std::array first = {
      runner_->sample_first(rows, length, place_->sampler, options.logits_processor, place_->text,
                            options.grammar ? place_->guided->after(*options.grammar) : TokenBits{})};
  place_->text.push_back(first[0]);
  sequence.append(first);
  place_->wanted = static_cast<std::int32_t>(sequence.tokens().size());
  if (!options.logprobs) return;
  for (TokenLogprobs& found : runner_->logprobs_of_root(rows, length, sequence.fresh().size(), *options.logprobs)) {
    sequence.add(std::move(found));
  }
}

void Engine::begin_drafting(Sequence& sequence) {
  const GenerateOptions& options = sequence.options();
  if (planner_) planner_->begin_text(options.sampling.temperature > 0.0f);
  if (!place_->draft.works()) return;
  const auto start = Clock::now();
  const std::int64_t replaced = ranks_ ? ranks_->replaced() : 0;
  drafting_->begin(place_->draft, {&place_->sampler.chain(), place_->sampler.draw(), runner_->sequence(),
                                   options.verify == VerifyMode::Keyed ? nullptr : &place_->rejection, place_->reuse,
                                   is_alone(), most_tokens(sequence), predicted(sequence)});
  if (!ranks_) return;
  sequence.stats().adapted_rows = ranks_->replaced() - replaced;
  sequence.stats().adapt_seconds = seconds_since(start);
}

// Whether no other sequence is being drafted.
bool Engine::is_alone() const {
  return std::none_of(places_.begin(), places_.end(), [this](const Place& place) {
    return &place != place_ && place.owner != 0 && !place.is_idle() && place.draft.works();
  });
}

// That the sequence may have on its way.
std::size_t Engine::most_tokens(const Sequence& sequence) const {
  return sequence.tokens().size() +
         static_cast<std::size_t>(std::min(sequence.tokens_left(), sequence.room_left()) + target_->limits().tree);
}

// The caller holds the lock.
void Engine::advance(Sequence& sequence) {
  if (sequence.cancelled()) {
    sequence.finish(FinishReason::Cancelled);
    return close_step(sequence);
  }
  const auto start = Clock::now();
  // Those that are served before it in this step keep what they have.
  const auto mine = std::find(order_.begin(), order_.end(), sequence.id());
  for (Place& place : places_) place.kept = std::find(order_.begin(), mine, place.owner) != mine;
  if (!enter(sequence)) {
    if (order_.size() > 1) return;
    throw Error("found no place for a text that is alone");
  }
  const bool reads = !place_->read;
  if (!place_->begun) begin_reading(sequence);
  // What it reads and the first root; or this step, and one that begins ahead.
  const std::int64_t needs = reads ? static_cast<std::int64_t>(place_->text.size()) + 1
                                   : std::int64_t{place_->committed} + 2 * (max_depth_ + 1) + 1;
  if (!hold(needs)) {
    if (order_.size() == 1) throw Error("cache: found no page that is left");
    displaced_ += reads ? 0 : 1;
    return leave(*place_, {});
  }
  const bool whole = !reads || read_prompt(sequence);
  if (!reads) iterate(sequence);
  place_->read = whole;
  if (!whole && sequence.cancelled()) sequence.finish(FinishReason::Cancelled);
  close_times(sequence, reads, seconds_since(start));
  close_step(sequence);
}

// What a step has taken, all in all.
void Engine::close_times(Sequence& sequence, bool reads, double seconds) const {
  Stats& stats = sequence.stats();
  stats.drafter_error = place_->draft.error;
  stats.total_seconds += seconds;
  if (reads) {
    stats.prefill_seconds += seconds;
  } else if (sequence.options().trace) {
    sequence.set_step_seconds(seconds);
  }
}

}  // namespace frspec
