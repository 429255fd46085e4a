// Steps that begin before the last verdict is seen, on a device that works by itself: they hide what the host does
// between two steps.
#include <utility>

#include "engine/engine.h"

namespace frspec {

// Nothing that the host decides may depend on the verdict, and the next step must be wanted whatever it says, but for
// the end of the sequence.
bool Engine::may_go_ahead(const Sequence& sequence, const Step& step) const {
  const GenerateOptions& options = sequence.options();
  if (order_.size() > 1 || !backend_->capabilities().asynchronous || options.verify != VerifyMode::Keyed ||
      options.logits_processor || options.grammar || options.limits.any() || options.logprobs || options.trace ||
      runner_->verifier().needs_logits()) {
    return false;
  }
  if (place_->draft.works() &&
      (!step.drafted || !drafting_->drafter().follows_device() || !planner_->is_steady(options, step.plan))) {
    return false;
  }
  const std::int64_t most = step.drafted ? step.tree->view().max_depth + 1 : 1;  // tokens of a step
  return sequence.tokens_left() > most && sequence.room_left() > 2 * most;
}

// The step whose verdict is seen next. The one behind it is begun where that may be.
Engine::Step Engine::next_step(Sequence& sequence) {
  const Step step = place_->ahead ? *std::exchange(place_->ahead, std::nullopt) : begin_step(sequence, 0, nullptr);
  if (may_go_ahead(sequence, step)) place_->ahead = begin_step(sequence, 1 - step.slot, &step);
  return step;
}

}  // namespace frspec
