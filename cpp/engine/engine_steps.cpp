// The steps of a text: draft, verify, accept; and which of them begin before the last verdict is seen.
#include <algorithm>
#include <array>
#include <iomanip>
#include <limits>
#include <sstream>
#include <utility>

#include "draft/no_drafter.h"
#include "engine/engine.h"

namespace frspec {
namespace {

// Points of a step whose times are noted.
enum StepTime : int { kStart, kTold, kDrafted, kVerified };
static_assert(kVerified + 1 == kStepTimes && kEngineTimes <= kTimePoints);
constexpr int kFewTurns = 4;  // of a loop: there should be more of them

}  // namespace

// What the drafter has not been told yet, because it was not asked to draft: the last tokens, and the target's states.
void Engine::tell_drafter(Generation& text) {
  auto& lag = text.lag_;
  if (lag.rows == 0) return;
  backend_->upload(next_ids_.as<void>(), lag.next.data(), lag.next.size() * sizeof(TokenId));
  set_count(lag.rows);
  const Tensor features = lag_features_.matrix(lag.rows, target_->feature_dim());
  with_drafter(text, [&](Drafter& drafter) {
    drafter.accept({lag.rows, count_.as<std::int32_t>(), features, next_ids_.as<std::int32_t>(), lag.tokens,
                    lag.next.back(), lag.candidates});
  });
  lag = {};
}

void Engine::remember_for_drafter(Generation& text, const TreeView& tree, const VerdictView& verdict,
                                  std::span<const TokenId> tokens) {
  if (text.options_.draft == DraftMode::Never || !drafter_) return;
  auto& lag = text.lag_;
  const auto rows = static_cast<int>(tokens.size()) - 1;
  if (lag.rows + rows > lag_room()) tell_drafter(text);
  const Tensor room = lag_features_.matrix(lag_room(), target_->feature_dim()).row_range(lag.rows, rows);
  backend_->gather_rows(room, target_->features(tree.size), verdict.nodes);
  lag.rows += rows;
  lag.tokens.insert(lag.tokens.end(), tokens.begin(), tokens.end() - 1);
  lag.next.insert(lag.next.end(), tokens.begin() + 1, tokens.end());
  const std::span<const TokenId> candidates = verifier_->candidates();
  lag.candidates.insert(lag.candidates.end(), candidates.begin(), candidates.end());
}

// What to draft with in the next step, and whether.
Tuner::Plan Engine::plan_step(const Generation& text) {
  if (text.options_.draft == DraftMode::Never || !drafter_ || !text.stats_.drafter_error.empty()) return {};
  // Rejection sampling draws other numbers with drafts than without, and with others: what a seed gives may not depend
  // on the clock.
  if (text.options_.verify != VerifyMode::Keyed) return {.drafts = true, .forced = true};
  if (text.options_.draft == DraftMode::Watch) return {.drafts = true};
  const std::int64_t step = text.stats_.steps;
  if (text.options_.draft == DraftMode::Sparse && (step & (step + 1)) != 0) return {};
  return tuner_->next(text.options_.draft == DraftMode::Auto);
}

// At the end of a text; many short ones are not worth a file each.
void Engine::keep_tuning() {
  constexpr std::chrono::seconds kPeriod{2};
  const auto now = std::chrono::steady_clock::now();
  if (!tuning_file_ || now - tuning_kept_ < kPeriod) return;
  tuning_kept_ = now;
  (void)tuning_file_->write(tuner_->numbers());
}

Tuning Engine::tuning() const {
  const Tuner::Choice choice = tuner_->choice();
  Tuning found;
  found.drafts = choice.drafts;
  found.nodes = choice.nodes;
  found.levels = choice.levels;
  found.gain = choice.gain;
  found.cost = choice.cost;
  found.tokens_per_second = choice.tokens_per_second;
  found.plain_tokens_per_second = choice.plain_tokens_per_second;
  std::ostringstream out;
  out << std::fixed << std::setprecision(1);
  if (tuner_->arms().empty()) {
    out << "what the text repeats is drafted where it is likely enough";
  } else {
    const Tuner::Arm& arm = tuner_->arms()[static_cast<std::size_t>(choice.arm)];
    found.head = arm.head;
    found.translation = arm.translation;
    out << (choice.drafts ? "drafting pays" : "drafting does not pay");
    if (choice.nodes > 0.0) {
      out << (choice.drafts ? ": " : ", and is tried now and then: ");
      if (!arm.translation.empty()) out << arm.translation << ", ";
      out << "head " << arm.head << ", trees of " << choice.nodes << " nodes and " << choice.levels
          << " levels on average, expected to give " << choice.gain << " tokens a step and to cost "
          << std::max(0.0, choice.cost);
    }
  }
  out << "; " << choice.tokens_per_second << " tokens/s expected, " << choice.plain_tokens_per_second
      << " without drafts";
  found.summary = out.str();
  return found;
}

// What a tuner learns from the nodes that the target reached.
void Engine::note_accepted(Generation& text, const DraftTree& tree, const Verdict& verdict) {
  Tuner::Step& step = text.tuned_;
  step.accepted = static_cast<int>(verdict.nodes.size()) - 1;
  if (tuner_->arms().size() > 1) {
    for (const TokenId token : verdict.tokens) step.held.push_back(token < 0 ? ~0u : drafter_->holders(token));
  }
  const std::span<const NodeNote> notes = tree.notes();
  if (notes.empty()) return;
  step.has_notes = true;
  const auto size = static_cast<std::size_t>(tree.size());
  std::vector<std::int32_t> parents(size);
  backend_->download(parents.data(), tree.view().parents, size * sizeof(std::int32_t));
  for (std::size_t i = 0; i < verdict.nodes.size(); ++i) {
    const std::int32_t node = verdict.nodes[i];
    const std::int32_t next = i + 1 < verdict.nodes.size() ? verdict.nodes[i + 1] : -1;
    bool has_children = false;
    for (auto child = static_cast<std::size_t>(node) + 1; child < size; ++child) {
      if (parents[child] != node) continue;
      has_children = true;
      step.nodes.push_back({notes[child].cell, static_cast<std::int32_t>(child) == next});
    }
    if (has_children && node > 0) step.parents.push_back({notes[static_cast<std::size_t>(node)].cell, next >= 0});
  }
  for (const NodeNote& note : notes.subspan(1)) step.expected += static_cast<double>(note.chance);
}

// Gives the device a step to do. `before`: the step whose verdict the host has not seen yet; null: it has seen them
// all.
Engine::Step Engine::begin_step(Generation& text, int slot, const Step* before) {
  const std::int32_t* prefix = target_->cache().length();
  Step step;
  step.ahead = before != nullptr;
  step.slot = slot;
  const int times = step.slot * kStepTimes;
  step.plan = before != nullptr && before->plan.planned && before->drafted ? tuner_->again() : plan_step(text);
  head_clock_->run(text.options_.trace);
  backend_->note_time(times + kStart);
  // A tree that grows as far as pays is the tuner's; what the text repeats costs nothing to look up.
  WideGrowth wide;
  Growth* growth = nullptr;
  if (text.options_.draft == DraftMode::Watch) {
    growth = &wide;
  } else if (tuner_ && tuner_->grows() && text.options_.verify == VerifyMode::Keyed) {
    growth = tuner_.get();
  }
  const bool repeats = growth != nullptr && step.plan.planned && drafter_->repeats();
  if (step.plan.drafts || repeats) {
    if (step.plan.drafts && before != nullptr) {
      tell_on_device(text, *before);
    } else if (step.plan.drafts) {
      step.told = text.lag_.rows;
      tell_drafter(text);
    }
    backend_->note_time(times + kTold);
    with_drafter(text, [&](Drafter& drafter) {
      drafter.use(step.plan.arm);
      if (tuner_->grows()) tuner_->begin_growth(step.plan);
      step.tree = &drafter.propose(root_.as<std::int32_t>(), growth);
      if (tuner_->grows()) tuner_->end_growth();
    });
  }
  if (text.options_.draft == DraftMode::Watch && step.tree != nullptr) {
    text.watched_ = watched_nodes(*backend_, *step.tree);
    step.tree = nullptr;
  }
  backend_->note_time(times + kDrafted);
  step.drafted = step.tree != nullptr;
  if (!step.drafted) step.tree = &no_drafter_->propose(root_.as<std::int32_t>(), nullptr);
  const DraftTree& tree = *step.tree;
  target_->forward(tree.view().tokens, tree.rows(prefix));
  const bool by_rejection = step.drafted && text.options_.verify != VerifyMode::Keyed;
  step.verdict = by_rejection ? &verifier_->verify_by_rejection(tree, text.sampler_, text.rejection_,
                                                                text.options_.verify == VerifyMode::Block)
                 : text.options_.logits_processor
                     ? &verifier_->verify(tree, text.sampler_, text.options_.logits_processor, text.tokens_)
                     : &verifier_->verify(tree, text.sampler_);
  backend_->record(history_.as<std::int32_t>(), prefix, tree.view(), *step.verdict);
  target_->cache().commit(*step.verdict);
  backend_->take_last(root_.as<std::int32_t>(), *step.verdict);
  backend_->note_time(times + kVerified);
  return step;
}

// How many steps may begin before the host sees this one's verdict, behind `unseen` - 1 others that have begun: it
// hides what the host does between two steps, on a device that works by itself. Nothing that the host decides may
// depend on the verdicts, and the steps must be wanted whatever they say, but for the end of the text.
int Engine::steps_ahead(const Generation& text, const Step& step, int unseen) const {
  const GenerateOptions& options = text.options_;
  std::int64_t steady = std::numeric_limits<int>::max();  // that are planned alike
  if (!plan_ || host_backend_ || options.verify != VerifyMode::Keyed || options.logits_processor || options.logprobs ||
      options.trace || verifier_->needs_logits()) {
    return 0;
  }
  if (options.draft != DraftMode::Never && drafter_ && text.stats_.drafter_error.empty()) {
    if (!step.drafted || !step.plan.planned || options.draft == DraftMode::Sparse) return 0;
    if (!drafter_->follows_device() || options_.states) return 0;
    steady = tuner_->steady_steps();
  }
  const std::int64_t most = step.drafted ? step.tree->view().max_depth + 1 : 1;  // tokens of a step
  const std::int64_t left =
      std::min(options.max_tokens - text.stats_.generated_tokens,
               static_cast<std::int64_t>(context_) - static_cast<std::int64_t>(text.tokens_.size()) - most);
  return static_cast<int>(std::max<std::int64_t>(0, std::min((left - 1) / most, steady) - (unseen - 1)));
}

// Gives the device the step behind this one, or a loop of the next ones, where it may begin. A loop repeats what a step
// ahead was: only behind one is it known that the device has all it needs for it.
void Engine::go_ahead(Generation& text, const Step& step) {
  const int steps = std::min(steps_ahead(text, step, 1), step.ahead ? std::max(1, backend_->most_turns() / 2) : 1);
  if (steps == 0) return;
  if (steps == 1) {
    text.ahead_ = begin_step(text, 1 - step.slot, &step);
    verifier_->post(text.ahead_->slot);
    return;
  }
  try {
    backend_->begin_loop();
    text.ahead_ = begin_step(text, kPosts, &step);
    verifier_->loop(steps);
  } catch (...) {
    backend_->end_loop();
    throw;
  }
  text.turns_ = steps;
}

// The step whose verdict is seen next. Whatever may begin before is begun.
Engine::Step Engine::next_step(Generation& text) {
  if (text.turns_ > 0) {
    const Step step = *text.ahead_;
    // More turns, while the device is still busy with the last ones.
    if (text.turns_ == kFewTurns || text.turns_ == 1) {
      const int more = std::min(steps_ahead(text, step, text.turns_), backend_->most_turns() / 2);
      if (more > (text.turns_ == 1 ? 0 : kFewTurns)) {
        backend_->loop_on(more);
        text.turns_ += more;
      }
    }
    if (--text.turns_ == 0) {
      text.ahead_.reset();
    } else if (step.plan.planned) {
      tuner_->again();  // plans the turn behind this one
    }
    return step;
  }
  Step step;
  if (text.ahead_) {
    step = *text.ahead_;
    text.ahead_.reset();
  } else {
    step = begin_step(text, 0, nullptr);
    verifier_->post(step.slot);
  }
  go_ahead(text, step);
  return step;
}

// Tells the drafter of a verdict that only the device knows.
void Engine::tell_on_device(Generation& text, const Step& before) {
  const TreeView& tree = before.tree->view();
  const int rows = tree.max_depth + 1;
  auto* memory = path_.as<std::int32_t>();
  const PathView path{memory, memory + rows, memory + 2 * rows};
  backend_->fill_path(path, rows, *before.verdict);
  const Tensor features = lag_features_.matrix(rows, target_->feature_dim());
  backend_->gather_rows(features, target_->features(tree.size), path.nodes);
  with_drafter(text, [&](Drafter& drafter) {
    drafter.accept(
        {.rows = rows, .count = before.verdict->count, .features = features, .next = path.tokens, .last = path.last});
  });
}

void Engine::run_step(Generation& text) {
  Stats& stats = text.stats_;
  text.rejection_ = {text.options_.sampling.seed, static_cast<std::uint32_t>(stats.steps)};
  text.tuned_.begin();
  const Step step = next_step(text);
  const DraftTree& tree = *step.tree;
  const Verdict& read = step.in_loop() ? verifier_->read_turn() : verifier_->read(step.slot);
  const auto seconds = [&](StepTime first, StepTime second) {
    return backend_->seconds_between(step.slot * kStepTimes + first, step.slot * kStepTimes + second);
  };
  Tuner::Step& tuned = text.tuned_;
  tuned.plan = step.plan;
  tuned.drafted = step.drafted && step.plan.drafts;
  tuned.rows = tree.size();
  tuned.told = step.told;
  if (step.drafted) {
    tuned.told_seconds = seconds(kStart, kTold);
    tuned.grown_seconds = seconds(kTold, kDrafted);
  }
  const double draft_seconds = tuned.told_seconds + tuned.grown_seconds;
  stats.draft_seconds += draft_seconds;
  const double verify_seconds = tuned.target_seconds = seconds(kDrafted, kVerified);
  stats.verify_seconds += verify_seconds;
  const int rows = static_cast<int>(read.tokens.size());
  text.take(read.tokens);
  if (text.options_.trace) trace_step(text, step, read, draft_seconds, verify_seconds);
  if (step.drafted) note_accepted(text, tree, read);
  const bool tells = text.options_.draft != DraftMode::Never && text.options_.draft != DraftMode::Watch;
  if (tuner_ && tells) tuner_->add(tuned);
  ++stats.steps;
  stats.drafted_steps += step.drafted && tree.size() > 1 ? 1 : 0;  // n-grams often find nothing
  stats.step_tokens += static_cast<std::int64_t>(text.fresh_.size()) + (text.ended_by_token_ ? 1 : 0);
  if (text.options_.logprobs) {
    const Tensor hidden = committed_.matrix(rows, target_->config().dim);
    backend_->gather_rows(hidden, target_->hidden(tree.size()), step.verdict->nodes);
    add_logprobs(text, hidden, step.verdict->tokens);
  }
  if (text.finish_ != FinishReason::None) {
    backend_->end_loop();  // steps that nobody will look at
    return;
  }
  // The text ends with the token that the target has not processed yet: the next root.
  const auto tokens = std::span<const TokenId>(text.tokens_).last(text.fresh_.size() + 1);
  with_drafter(text, [&](Drafter& drafter) { drafter.extend(tokens.last(text.fresh_.size())); });
  if (!text.ahead_) return remember_for_drafter(text, tree.view(), *step.verdict, tokens);
  with_drafter(text,
               [&](Drafter& drafter) { drafter.observe({tokens.first(tokens.size() - 1), verifier_->candidates()}); });
}

}  // namespace frspec
