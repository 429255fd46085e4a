// Which tree a step of a sequence verifies: what a grammar forces, or what it leaves of the drafter's, or the last
// token alone. All calls are about the sequence of the place in use.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/parts.h"
#include "engine/places.h"
#include "engine/step.h"

namespace frspec {

class Proposer {
 public:
  Proposer(EngineParts& parts, Places& places);

  // Sets the step's tree. `unseen`: the step before it, whose verdict the host has not seen; null: it has.
  void propose(const Sequence& sequence, Step& step, const Step* unseen);

 private:
  void ask_drafter(const Sequence& sequence, Step& step, const Step* unseen);
  Tuner::Outlook outlook(const Sequence& sequence, const Step& step);
  const DraftTree* grow(Step& step, Growth* growth);
  const DraftTree* cut(const DraftTree& tree, const DraftLimits& limits);
  bool propose_forced(const Sequence& sequence, Step& step);
  void guide(const Sequence& sequence, Step& step);

  EngineParts& parts_;
  Places& places_;
  std::vector<std::int32_t> cut_tokens_, cut_parents_;  // of a tree that is cut
};

}  // namespace frspec
