// Draft trees that are put together on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "tree/growth.h"

namespace frspec {

// A tree on the host, to which nodes and paths are added. Parents come before their children.
class HostTree {
 public:
  void reserve(std::size_t nodes);
  void begin(TokenId root);
  // Adds a path below the root as far as the tree has room, and no deeper than `max_depth`.
  void add_path(std::span<const TokenId> path, std::size_t max_size, int max_depth);
  // The child of `node` with that token; where there is none, it is added with `note`. A child that is there keeps the
  // note of the larger chance.
  std::int32_t add(std::int32_t node, TokenId token, const NodeNote& note);
  void assign(std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents);
  // Leaves the nodes that `growth` finds worth verifying, and at most `max_size` of them, the root included.
  void prune(const Growth& growth, std::size_t max_size);

  const std::vector<std::int32_t>& tokens() const { return tokens_; }
  const std::vector<std::int32_t>& parents() const { return parents_; }
  const std::vector<NodeNote>& notes() const { return notes_; }
  const NodeNote& note(std::int32_t node) const { return notes_[static_cast<std::size_t>(node)]; }

 private:
  std::int32_t find(std::int32_t node, TokenId token) const;  // -1: none

  std::vector<std::int32_t> tokens_, parents_;
  std::vector<NodeNote> notes_;
  // Scratch of prune().
  std::vector<std::int32_t> order_, place_;
  std::vector<float> chances_;
};

}  // namespace frspec
