// How far a draft tree is grown and which of its nodes are verified, where no shape is given: drafters ask level by
// level, and say what they think of each node.
#pragma once

#include <cstdint>
#include <span>

namespace frspec {

// What is thought of a drafted node before the target has seen it.
struct NodeNote {
  float chance = 1.0f;     // probability that the target says so, too: this token, and all those before it
  std::uint16_t cell = 0;  // nodes of one cell are alike: what is learned of one counts for all
};

class Growth {
 public:
  virtual ~Growth() = default;
  // A child of a node. `score`: its log-probability by the drafter, given the node; `depth`: 1 for the root's children.
  virtual NodeNote judge(const NodeNote& parent, float score, int depth) const = 0;
  // A token that followed in the text when the last `matched` tokens stood there before, after `depth` - 1 others.
  virtual NodeNote judge_repeated(const NodeNote& parent, int matched, int depth) const = 0;
  // Whether the drafter is asked at all, where `repeated`, chances of what the text repeats, costs nothing; best first.
  virtual bool drafts_beside(std::span<const float> repeated) = 0;
  // How many nodes of the frontier, best first, are worth another level of drafting; 0: none, the tree is done.
  // `chances`: of all nodes below the root so far, best first.
  virtual int width(std::span<const NodeNote> frontier, std::span<const float> chances) = 0;
  // How many nodes below the root are worth verifying: the first ones of `chances`, best first.
  virtual int size(std::span<const float> chances) const = 0;
};

}  // namespace frspec
