// Draft trees that are put together on the host, path by path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace frspec {

// A tree on the host, to which paths are added.
class HostTree {
 public:
  void begin(TokenId root);
  // Adds a path below the root as far as the tree has room, and no deeper than `max_depth`.
  void add_path(std::span<const TokenId> path, std::size_t max_size, int max_depth);
  void assign(std::vector<std::int32_t> tokens, std::vector<std::int32_t> parents);

  const std::vector<std::int32_t>& tokens() const { return tokens_; }
  const std::vector<std::int32_t>& parents() const { return parents_; }

 private:
  std::vector<std::int32_t> tokens_, parents_;
};

}  // namespace frspec
