// Growing a dynamic tree (EAGLE-2, 2406.16858, section 4) from a drafter that is run level by level.
#pragma once

#include "draft/keyed.h"
#include "tree/draft_tree.h"
#include "vocab/draft_head.h"

namespace frspec {

class TreeGrower {
 public:
  // Throws InvalidInput for a shape that no tree has, or that wants more children than the head has rows.
  TreeGrower(Backend& backend, const TreeShape& shape, const DraftHead& head);

  DraftTree& tree() { return tree_; }
  const DraftTree& tree() const { return tree_; }
  const CandidatePool& pool() const { return tree_.pool(); }
  // From now on trees have this shape, which fits into the first one.
  void reshape(const TreeShape& shape) { tree_.reshape(shape); }

  // Fills the pool. `states(level)` gives the hidden states that the children of a level are chosen from: of the root
  // (one row) at level 0, of the frontier's nodes (branch rows) at the others. `token_of_id` as DraftNoise's.
  template <class States>
  void grow(DraftHead& head, const TextRules& rules, States&& states, const std::int32_t* token_of_id = nullptr) {
    for (int level = 0; level < pool().levels; ++level) {
      const Tensor hidden = states(level);
      choose_children(head, rules, level, hidden, token_of_id);
      backend_.tree_expand(pool(), level, child_ids_.as<std::int32_t>(), child_scores_.as<float>());
    }
    if (token_of_id != nullptr) backend_.map_ids(pool().tokens, pool().capacity(), token_of_id);
    if (token_of_id != nullptr && rules.rejection != nullptr) {
      backend_.map_ids(proposals_.ids, pool().levels * proposals_.width, token_of_id);
    }
    tree_.set_proposals(rules.rejection != nullptr ? &proposals_ : nullptr);
  }
  // Makes the tree of the best candidates.
  const DraftTree& select(const std::int32_t* root) {
    backend_.tree_select(tree_.view(), pool(), root);
    return tree_;
  }

 private:
  void choose_children(DraftHead& head, const TextRules& rules, int level, Tensor hidden,
                       const std::int32_t* token_of_id);

  Backend& backend_;
  DraftTree tree_;
  Buffer child_ids_;     // (branch, branch)
  Buffer child_scores_;  // (branch, branch)
  // For chains (branch 1) and rejection sampling:
  Proposals proposals_;
  Buffer proposal_memory_, candidate_ids_, candidate_scores_;
};

}  // namespace frspec
