// Growing a dynamic tree from a drafter that is run level by level: of a given shape (EAGLE-2, 2406.16858, section 4),
// all of it on the device; or as far as a Growth finds worth it, which is asked on the host after each level.
#pragma once

#include <vector>

#include "draft/host_tree.h"
#include "draft/keyed.h"
#include "tree/draft_tree.h"
#include "vocab/draft_head.h"

namespace frspec {

// A node that was drafted, and perhaps followed further.
struct DraftCandidate {
  TokenId token;        // the head's
  std::int32_t parent;  // candidate before it; -1: the root
  float score;          // cumulative log-probability by the drafter
  NodeNote note;
  std::int32_t row;  // of the last pass, where its state is; set when it is followed
};

class TreeGrower {
 public:
  // Throws InvalidInput for a shape that no tree has, or that wants more children than the head has rows.
  TreeGrower(Backend& backend, const TreeShape& shape, const DraftHead& head);

  DraftTree& tree() { return tree_; }
  const DraftTree& tree() const { return tree_; }
  const CandidatePool& pool() const { return tree_.pool(); }
  // Fills the pool. `states(level, rows)` gives the hidden states that the children of a level are chosen from: of the
  // root (one row) at level 0, of the frontier's nodes at the others. `token_of_id` as DraftNoise's.
  template <class States>
  void grow(DraftHead& head, const TextRules& rules, States&& states, const std::int32_t* token_of_id = nullptr) {
    tree_.restore();
    for (int level = 0; level < pool().levels; ++level) {
      const Tensor hidden = states(level, level == 0 ? 1 : pool().branch);
      choose_children(head, rules, level, hidden, token_of_id);
      backend_.tree_expand(pool(), level, child_ids_.as<std::int32_t>(), child_scores_.as<float>());
    }
    if (token_of_id != nullptr) backend_.map_ids(pool().tokens, pool().capacity(), token_of_id);
    if (token_of_id != nullptr && rules.rejection != nullptr) {
      backend_.map_ids(proposals_.ids, pool().levels * proposals_.width, token_of_id);
    }
    tree_.set_proposals(rules.rejection != nullptr ? &proposals_ : nullptr);
  }
  // The same, as far as `growth` finds worth it: fills candidates(). No deeper and no wider than the shape.
  template <class States>
  void grow(Growth& growth, DraftHead& head, const TextRules& rules, States&& states,
            const std::int32_t* token_of_id = nullptr) {
    reserve();
    candidates_.clear();
    level_begin_ = 0;
    for (int level = 0; level < pool().levels; ++level) {
      const int rows = level == 0 ? 1 : follow(growth, level);
      if (rows == 0) break;
      choose_children(head, rules, level, states(level, rows), token_of_id);
      add_children(growth, level, rows);
    }
  }
  const std::vector<DraftCandidate>& candidates() const { return candidates_; }
  // The tree of those candidates that are worth verifying. `token_of_id` (host): the target's tokens; empty: the same.
  const DraftTree& select(const Growth& growth, TokenId root, std::span<const TokenId> token_of_id = {});
  // The rows of the frontier's pass, behind a sequence, for the states of `level`.
  Rows frontier_rows(const SequenceView& sequence, int level, int rows) const {
    Rows frontier = tree_.frontier_rows(sequence, level - 1);
    frontier.count = rows;
    return frontier;
  }

  // Makes the tree of the best candidates behind the sequence's last token.
  const DraftTree& select(const SequenceView& sequence) {
    tree_.restore();
    backend_.tree_select(tree_.view(), pool(), sequence);
    return tree_;
  }

 private:
  // Room on the host, which trees of a fixed shape do not need.
  void reserve();
  void choose_children(DraftHead& head, const TextRules& rules, int level, Tensor hidden,
                       const std::int32_t* token_of_id);
  // Puts the nodes of the last level that are worth it into the frontier; returns how many.
  int follow(Growth& growth, int level);
  void add_children(const Growth& growth, int level, int rows);

  Backend& backend_;
  DraftTree tree_;
  int tree_room_;        // nodes that it has room for
  Buffer child_ids_;     // (branch, branch)
  Buffer child_scores_;  // (branch, branch)
  // For chains (branch 1) and rejection sampling:
  Proposals proposals_;
  Buffer proposal_memory_, candidate_ids_, candidate_scores_;
  // For trees that a Growth decides on:
  std::vector<DraftCandidate> candidates_;
  std::size_t level_begin_ = 0;         // the first candidate of the last level
  std::vector<std::int32_t> frontier_;  // candidates that are followed
  HostTree host_;
  std::vector<std::int32_t> scratch_ints_, nodes_;
  std::vector<float> scratch_floats_;
  std::vector<NodeNote> scratch_notes_;
};

}  // namespace frspec
