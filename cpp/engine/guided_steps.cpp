// Steps of a sequence that a grammar guides: what is drafted without a drafter, and what is not verified.
#include <algorithm>

#include "engine/engine.h"

namespace frspec {
namespace {

// A forced run of so many tokens is worth more than what a drafter may say; it costs nothing, and is always accepted.
constexpr std::size_t kWorthAStep = 3;

}  // namespace

// A chain of the tokens that the grammar forces, where it is worth a step, or nobody else drafts.
bool Engine::draft_forced(const Sequence& sequence, Step& step) {
  const GenerateOptions& options = sequence.options();
  step.run.clear();
  if (options.draft == DraftMode::Never) return false;
  GuidedTrees& guided = *place_->guided;
  const int most = step.limits.most;
  step.run = options.grammar->forced(most < 0 ? guided.most_forced() : std::min(guided.most_forced(), most));
  if (step.run.empty() || (place_->draft.works() && step.run.size() < kWorthAStep)) return false;
  step.tree = &guided.chain(sequence.tokens().back(), step.run, *options.grammar);
  step.forced = true;
  return true;
}

// What the grammar leaves of a tree; where that is nothing, the forced run after all, however short.
void Engine::guide(const Sequence& sequence, Step& step) {
  Grammar& grammar = *sequence.options().grammar;
  step.tree = &place_->guided->cut(*step.tree, grammar);
  if (step.tree->size() > 1 || step.run.empty()) return;
  step.tree = &place_->guided->chain(sequence.tokens().back(), step.run, grammar);
  step.forced = true;
}

}  // namespace frspec
