// Draft trees on the host.
#include "draft/host_tree.h"

#include <utility>

namespace frspec {

void HostTree::begin(TokenId root) { assign({root}, {-1}); }

void HostTree::assign(std::vector<std::int32_t> tokens, std::vector<std::int32_t> parents) {
  tokens_ = std::move(tokens);
  parents_ = std::move(parents);
}

void HostTree::add_path(std::span<const TokenId> path, std::size_t max_size, int max_depth) {
  std::size_t node = 0;
  for (int depth = 0; depth < max_depth && depth < static_cast<int>(path.size()); ++depth) {
    std::size_t child = node + 1;
    while (child < tokens_.size() && !(parents_[child] == static_cast<std::int32_t>(node) &&
                                       tokens_[child] == path[static_cast<std::size_t>(depth)])) {
      ++child;
    }
    if (child == tokens_.size()) {
      if (tokens_.size() == max_size) return;
      tokens_.push_back(path[static_cast<std::size_t>(depth)]);
      parents_.push_back(static_cast<std::int32_t>(node));
    }
    node = child;
  }
}

}  // namespace frspec
