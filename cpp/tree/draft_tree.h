// A tree of drafted tokens in a backend's memory: grown level by level (EAGLE-2) or given as a whole.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "tree/growth.h"

namespace frspec {

// How large a draft tree is. The names and their meaning are EAGLE-2's (Li et al., 2406.16858, section 4; its code).
struct TreeShape {
  int depth = 5;    // d: the tree has d + 1 levels of drafted tokens, so d + 2 tokens at most come out of one step
  int branch = 10;  // k: nodes that are expanded per level, and children of each
  int size = 60;    // N: nodes that are verified, the root (the last token of the text) included

  int levels() const { return depth + 1; }
};

// Throws InvalidInput unless 0 <= depth <= 64, 1 <= branch <= 256, 1 <= size <= 4096.
void check_tree_shape(const TreeShape& shape);

// Depth of every node and its path from the root, derived from the parents (contract 4).
struct TreeLayout {
  int max_depth = 0;
  std::vector<std::int32_t> depth;  // (size)
  std::vector<std::int32_t> path;   // (size, max_depth + 1)
};
// Throws InvalidInput unless parents[0] is -1 and every other parent is an earlier node.
TreeLayout derive_layout(std::span<const std::int32_t> parents);
void derive_layout(std::span<const std::int32_t> parents, TreeLayout& layout);  // in its memory

// Reads the nodes of a tree back: their tokens and parents, (size) each.
void read_nodes(Backend& backend, const TreeView& tree, std::vector<std::int32_t>& tokens,
                std::vector<std::int32_t>& parents);

class DraftTree {
 public:
  // A tree that is grown: `levels` levels of `branch` expanded nodes, of which the best `size` - 1 nodes are kept.
  // Fewer where there are not that many candidates; a tree of size 1 is the root alone: plain decoding.
  DraftTree(Backend& backend, const TreeShape& shape);
  // A tree of the given tokens and parents (host).
  DraftTree(Backend& backend, std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents);

  // Room for trees that are given one after the other: up to `size` nodes and `max_depth` levels below the root.
  static DraftTree with_room(Backend& backend, int size, int max_depth);
  // Another tree of the given tokens and parents (host); it must fit. `notes`: of each node, or none.
  void assign(Backend& backend, std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents,
              std::span<const NodeNote> notes = {});

  // As large as it was made, and without notes: for the next tree that is grown on the device.
  void restore();

  const TreeView& view() const { return view_; }
  const CandidatePool& pool() const { return pool_; }
  int size() const { return view_.size; }
  // What was thought of each node, where the tree was grown by a Growth; else empty.
  std::span<const NodeNote> notes() const { return notes_; }
  // What a chain was drawn from, for rejection sampling; null: nothing was drawn.
  const Proposals* proposals() const { return proposals_; }
  void set_proposals(const Proposals* proposals) { proposals_ = proposals; }
  // What may follow each node: (size) sets in device memory, which outlive their use; none: anything.
  void set_allowed(const TokenBits& allowed) { allowed_ = allowed; }
  const TokenBits& allowed() const { return allowed_; }

  // The tree's nodes as the rows of a pass behind a sequence.
  Rows rows(const SequenceView& sequence) const;
  // The frontier after tree_expand(level), as the rows of a drafter's pass.
  Rows frontier_rows(const SequenceView& sequence, int level) const;

 private:
  DraftTree() = default;
  void allocate_view(Backend& backend, int size, int max_depth);

  int size_of(const TreeShape& shape) const;

  Buffer view_memory_, pool_memory_;
  int room_size_ = 0, room_depth_ = 0;
  std::vector<NodeNote> notes_;
  TreeLayout layout_;  // of assign()
  const Proposals* proposals_ = nullptr;
  TokenBits allowed_;
  TreeView view_;
  CandidatePool pool_;
};

}  // namespace frspec
