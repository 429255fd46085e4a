#include "draft/host_tree.h"

#include <algorithm>
#include <numeric>

namespace frspec {

void HostTree::reserve(std::size_t nodes) {
  for (auto* list : {&tokens_, &parents_, &order_, &place_}) list->reserve(nodes);
  notes_.reserve(nodes);
  chances_.reserve(nodes);
}

void HostTree::begin(TokenId root) {
  tokens_.assign(1, root);
  parents_.assign(1, -1);
  notes_.assign(1, {});
}

void HostTree::assign(std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents) {
  tokens_.assign(tokens.begin(), tokens.end());
  parents_.assign(parents.begin(), parents.end());
  notes_.assign(tokens_.size(), {});
}

std::int32_t HostTree::find(std::int32_t node, TokenId token) const {
  for (auto child = static_cast<std::size_t>(node) + 1; child < tokens_.size(); ++child) {
    if (parents_[child] == node && tokens_[child] == token) return static_cast<std::int32_t>(child);
  }
  return -1;
}

std::int32_t HostTree::add(std::int32_t node, TokenId token, const NodeNote& note) {
  if (const std::int32_t child = find(node, token); child >= 0) {
    NodeNote& known = notes_[static_cast<std::size_t>(child)];
    if (note.chance > known.chance) known = note;
    return child;
  }
  tokens_.push_back(token);
  parents_.push_back(node);
  notes_.push_back(note);
  return static_cast<std::int32_t>(tokens_.size()) - 1;
}

void HostTree::add_path(std::span<const TokenId> path, std::size_t max_size, int max_depth) {
  std::int32_t node = 0;
  for (int depth = 0; depth < max_depth && depth < static_cast<int>(path.size()); ++depth) {
    const TokenId token = path[static_cast<std::size_t>(depth)];
    const std::int32_t child = find(node, token);
    if (child < 0 && tokens_.size() == max_size) return;
    node = child >= 0 ? child : add(node, token, {});
  }
}

void HostTree::prune(const Growth& growth, std::size_t max_size) {
  // A child's chance is never above its parent's, and it stands behind it: a parent comes first in this order.
  order_.resize(tokens_.size() - 1);
  std::iota(order_.begin(), order_.end(), 1);
  // Not std::stable_sort, which allocates.
  std::sort(order_.begin(), order_.end(), [this](std::int32_t a, std::int32_t b) {
    return note(a).chance != note(b).chance ? note(a).chance > note(b).chance : a < b;
  });
  chances_.clear();
  for (const std::int32_t node : order_) chances_.push_back(note(node).chance);
  const std::size_t kept = std::min(static_cast<std::size_t>(growth.size(chances_)), max_size - 1);
  order_.resize(kept);
  std::sort(order_.begin(), order_.end());
  place_.assign(tokens_.size(), 0);
  for (std::size_t i = 0; i < kept; ++i) {
    const auto node = static_cast<std::size_t>(order_[i]);
    place_[node] = static_cast<std::int32_t>(i) + 1;
    tokens_[i + 1] = tokens_[node];
    parents_[i + 1] = place_[static_cast<std::size_t>(parents_[node])];
    notes_[i + 1] = notes_[node];
  }
  tokens_.resize(kept + 1);
  parents_.resize(kept + 1);
  notes_.resize(kept + 1);
}

}  // namespace frspec
