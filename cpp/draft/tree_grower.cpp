// Growing a dynamic tree.
#include "draft/tree_grower.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {
namespace {

constexpr int kProposalWidth = 64;  // tokens that a draft is drawn from; fewer where the chain has a smaller top-k

const TreeShape& checked(const TreeShape& shape, const DraftHead& head) {
  check_tree_shape(shape);
  if (shape.branch > head.size()) {
    fail("tree shape: branch: found ", shape.branch, ", expected at most ", head.size(),
         ", the rows of the draft head");
  }
  return shape;
}

}  // namespace

TreeGrower::TreeGrower(Backend& backend, const TreeShape& shape, const DraftHead& head)
    : backend_(backend), tree_(backend, checked(shape, head)) {
  const auto bytes = sizeof(float) * static_cast<std::size_t>(shape.branch) * static_cast<std::size_t>(shape.branch);
  child_ids_ = backend.allocate(bytes);
  child_scores_ = backend.allocate(bytes);
  if (shape.branch > 1) return;
  proposals_.width = std::min(kProposalWidth, head.size());
  const auto width = static_cast<std::size_t>(proposals_.width);
  const std::size_t count = width * static_cast<std::size_t>(shape.levels());
  proposal_memory_ = backend.allocate(2 * sizeof(float) * count);
  proposals_.ids = proposal_memory_.as<std::int32_t>();
  proposals_.probs = proposal_memory_.as<float>() + count;
  candidate_ids_ = backend.allocate(sizeof(float) * width);
  candidate_scores_ = backend.allocate(sizeof(float) * width);
}

void TreeGrower::choose_children(DraftHead& head, const TextRules& rules, int level, Tensor hidden,
                                 const std::int32_t* token_of_id) {
  auto* ids = child_ids_.as<std::int32_t>();
  auto* scores = child_scores_.as<float>();
  if (rules.rejection != nullptr) {
    auto* candidates = candidate_ids_.as<std::int32_t>();
    auto* log_probs = candidate_scores_.as<float>();
    head.top_k(hidden, {.ids = candidates, .scores = log_probs, .k = proposals_.width}, std::nullopt);
    backend_.draw_proposal(ids, scores, proposals_, level, candidates, log_probs, proposals_.width, *rules.chain,
                           *rules.rejection, rules.position);
    return;
  }
  std::optional<DraftNoise> noise = noise_of(rules);
  if (noise) {
    noise->offset = level + 1;
    noise->token_of_id = token_of_id;
  }
  head.top_k(hidden, {.ids = ids, .scores = scores, .k = pool().branch}, noise);
}

}  // namespace frspec
