#include "engine/step_trace.h"

#include <algorithm>
#include <array>

namespace frspec {

int WideGrowth::width(std::span<const NodeNote> frontier, std::span<const float>) {
  constexpr std::array kWidths = {4, 4, 3, 2, 2, 1, 1, 1, 1};
  const auto level = static_cast<std::size_t>(level_++);
  return level < kWidths.size() ? std::min(kWidths[level], static_cast<int>(frontier.size())) : 0;
}

std::vector<StepTrace::Watched> watched_nodes(Backend& backend, const DraftTree& tree) {
  std::vector<std::int32_t> tokens, parents;
  read_nodes(backend, tree.view(), tokens, parents);
  std::vector<StepTrace::Watched> nodes;
  for (std::size_t i = 1; i < tokens.size() && i < tree.notes().size(); ++i) {
    const float before = tree.notes()[static_cast<std::size_t>(parents[i])].chance;
    nodes.push_back({tokens[i], parents[i], std::log(tree.notes()[i].chance / before)});
  }
  return nodes;
}

std::vector<TokenId> children_of(Backend& backend, const TreeView& tree, std::int32_t node) {
  std::vector<std::int32_t> tokens, parents;
  read_nodes(backend, tree, tokens, parents);
  // A drafter adds the children of a node best first, whether it grows trees level by level or path by path.
  std::vector<TokenId> children;
  for (std::size_t i = 1; i < tokens.size(); ++i) {
    if (parents[i] == node) children.push_back(tokens[i]);
  }
  return children;
}

}  // namespace frspec
