// Draft trees under a grammar: nodes that it forbids are cut before the target sees them, and tokens that it forces are
// drafted without a drafter. Each node has with it what may follow, so the target's choice is the one that it would
// make without drafts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device.h"
#include "tree/draft_tree.h"
#include "verify/grammar.h"

namespace frspec {

class GuidedTrees {
 public:
  // Trees of up to `max_size` nodes and `max_depth` levels below the root, for `vocab` tokens.
  GuidedTrees(Backend& backend, int vocab, int max_size, int max_depth);

  // Tokens of a forced run that a tree has room for.
  int most_forced() const { return most_forced_; }
  // What may follow the text.
  TokenBits after(Grammar& grammar);
  // The nodes of `tree` that the grammar allows.
  const DraftTree& cut(const DraftTree& tree, Grammar& grammar);
  // A chain behind the last token of the text.
  const DraftTree& chain(TokenId last, std::span<const TokenId> run, Grammar& grammar);

 private:
  TokenBits fill(Grammar& grammar);
  const DraftTree& guided(std::span<const NodeNote> notes, Grammar& grammar);

  Backend& backend_;
  std::size_t words_;  // of a set
  int most_forced_;
  DraftTree tree_;
  Buffer device_sets_;                // (max_size, words)
  std::vector<std::uint32_t> sets_;   // likewise
  std::vector<std::int32_t> tokens_;  // of the tree that is looked through
  std::vector<std::int32_t> parents_;
  std::vector<std::int32_t> places_;  // of its nodes, in the tree that is left; -1: it was cut
  std::vector<NodeNote> notes_;       // of those that are left
};

}  // namespace frspec
