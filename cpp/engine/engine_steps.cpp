// The steps of a text: draft, verify, accept; and which of them begin before the last verdict is seen.
#include <algorithm>
#include <array>
#include <limits>
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
  if (text.options_.verify != VerifyMode::Keyed)
    return {.drafts = true, .shape = static_cast<int>(tuner_->shapes().size()) - 1};
  const std::int64_t step = text.stats_.steps;
  if (text.options_.draft == DraftMode::Sparse && (step & (step + 1)) != 0) return {};
  return tuner_->next(text.options_.draft == DraftMode::Auto);
}

Tuning Engine::tuning() const {
  const Tuner::Choice choice = tuner_->choice();
  const TreeShape& tree = tuner_->shapes()[static_cast<std::size_t>(choice.plan.shape)];
  return {tuner_->heads()[static_cast<std::size_t>(choice.plan.head)].name,
          tree.depth,
          tree.branch,
          tree.size,
          choice.plan.drafts,
          choice.rho,
          choice.nu,
          choice.kappa,
          choice.tokens_per_second,
          choice.plain_tokens_per_second};
}

// What a tuner learns from the accepted nodes of a tree.
void Engine::note_accepted(Generation& text, const DraftTree& tree, const Verdict& verdict) {
  const TreeView& view = tree.view();
  Tuner::Step& step = text.tuned_;
  step.is_ranked = view.ranks != nullptr && tuner_->shapes().size() > 1;
  for (std::size_t i = 1; i < verdict.nodes.size(); ++i) {
    Tuner::Accepted node;
    if (step.is_ranked) node.rank = verdict.ranks[i - 1];
    if (choice_ != nullptr) node.heads = choice_->holders(verdict.tokens[i - 1]);
    step.accepted.push_back(node);
  }
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
  if (step.plan.drafts) {
    if (before != nullptr) {
      tell_on_device(text, *before);
    } else {
      tell_drafter(text);
    }
    backend_->note_time(times + kTold);
    with_drafter(text, [&](Drafter& drafter) {
      if (tuner_->shapes().size() > 1) drafter.reshape(tuner_->shapes()[static_cast<std::size_t>(step.plan.shape)]);
      if (choice_ != nullptr) choice_->use(step.plan.head);
      step.tree = &drafter.propose(root_.as<std::int32_t>());
    });
  }
  backend_->note_time(times + kDrafted);
  step.drafted = step.tree != nullptr;
  step.drafted_last = std::exchange(text.drafted_last_, step.drafted);
  if (!step.drafted) step.tree = &no_drafter_->propose(root_.as<std::int32_t>());
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
  text.tuned_.plan = step.drafted ? step.plan : Tuner::Plan{.planned = step.plan.planned && !step.plan.drafts};
  const Verdict& read = step.in_loop() ? verifier_->read_turn() : verifier_->read(step.slot);
  const auto seconds = [&](StepTime first, StepTime second) {
    return backend_->seconds_between(step.slot * kStepTimes + first, step.slot * kStepTimes + second);
  };
  double draft_seconds = 0.0;
  if (step.plan.drafts) {
    const double told = seconds(kStart, kTold), grown = seconds(kTold, kDrafted);
    // What a drafter missed while it was not asked is no cost of this step's drafts.
    (step.drafted_last ? text.tuned_.draft_seconds : text.tuned_.catch_up_seconds) += told;
    text.tuned_.draft_seconds += grown;
    draft_seconds = told + grown;
    stats.draft_seconds += draft_seconds;
  }
  const double verify_seconds = seconds(kDrafted, kVerified);
  stats.verify_seconds += verify_seconds;
  // Where steps may begin ahead, the host's time is no measure: it may find several that are done.
  if (plan_) text.step_seconds_ = seconds(kStart, kVerified);
  const int rows = static_cast<int>(read.tokens.size());
  text.take(read.tokens);
  if (text.options_.trace) trace_step(text, step, read, draft_seconds, verify_seconds);
  if (step.drafted) note_accepted(text, tree, read);
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
  if (!text.ahead_) return remember_for_drafter(text, tree.view(), *step.verdict, tokens);
  with_drafter(text,
               [&](Drafter& drafter) { drafter.observe({tokens.first(tokens.size() - 1), verifier_->candidates()}); });
}

}  // namespace frspec
