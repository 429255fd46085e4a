// Cutting what a grammar forbids, and chaining what it forces.
#include "engine/guided_trees.h"

#include <algorithm>

namespace frspec {

GuidedTrees::GuidedTrees(Backend& backend, int vocab, int max_size, int max_depth)
    : backend_(backend),
      words_((static_cast<std::size_t>(vocab) + 31) / 32),
      most_forced_(std::min(max_size - 1, max_depth)),
      tree_(DraftTree::with_room(backend, max_size, max_depth)),
      device_sets_(backend.allocate(static_cast<std::size_t>(max_size) * words_ * sizeof(std::uint32_t))) {}

TokenBits GuidedTrees::fill(Grammar& grammar) {
  sets_.assign(tokens_.size() * words_, 0);
  grammar.fill(tokens_, parents_, sets_);
  return {device_sets_.as<std::uint32_t>(), static_cast<std::ptrdiff_t>(words_)};
}

TokenBits GuidedTrees::after(Grammar& grammar) {
  tokens_.assign(1, 0);
  parents_.assign(1, -1);
  const TokenBits allowed = fill(grammar);
  backend_.upload(device_sets_.as<void>(), sets_.data(), sets_.size() * sizeof sets_[0]);
  return allowed;
}

const DraftTree& GuidedTrees::cut(const DraftTree& tree, Grammar& grammar) {
  read_nodes(backend_, tree.view(), tokens_, parents_);
  return guided(tree.notes(), grammar);
}

const DraftTree& GuidedTrees::chain(TokenId last, std::span<const TokenId> run, Grammar& grammar) {
  tokens_.assign(1, last);
  tokens_.insert(tokens_.end(), run.begin(), run.end());
  parents_.resize(tokens_.size());
  for (std::size_t node = 0; node < parents_.size(); ++node) parents_[node] = static_cast<std::int32_t>(node) - 1;
  return guided({}, grammar);
}

// A node stays if its parent does and may be followed by it. Sets move together with their nodes.
const DraftTree& GuidedTrees::guided(std::span<const NodeNote> notes, Grammar& grammar) {
  const TokenBits allowed = fill(grammar);
  places_.assign(tokens_.size(), -1);
  notes_.clear();
  std::size_t kept = 0;
  for (std::size_t node = 0; node < tokens_.size(); ++node) {
    const std::int32_t parent = node == 0 ? -1 : places_[static_cast<std::size_t>(parents_[node])];
    if (node > 0) {
      if (parent < 0) continue;
      const auto token = static_cast<std::size_t>(tokens_[node]);
      const std::uint32_t word = sets_[static_cast<std::size_t>(parent) * words_ + token / 32];
      if ((word >> (token % 32) & 1u) == 0) continue;
    }
    places_[node] = static_cast<std::int32_t>(kept);
    tokens_[kept] = tokens_[node];
    parents_[kept] = parent;
    if (!notes.empty()) notes_.push_back(notes[node]);
    if (kept < node) {
      const auto set = sets_.begin() + static_cast<std::ptrdiff_t>(node * words_);
      std::copy_n(set, words_, sets_.begin() + static_cast<std::ptrdiff_t>(kept * words_));
    }
    ++kept;
  }
  tokens_.resize(kept);
  parents_.resize(kept);
  backend_.upload(device_sets_.as<void>(), sets_.data(), kept * words_ * sizeof sets_[0]);
  tree_.assign(backend_, tokens_, parents_, notes_);
  tree_.set_allowed(allowed);
  return tree_;
}

}  // namespace frspec
