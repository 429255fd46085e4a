#include "draft/tree_grower.h"

#include <algorithm>
#include <numeric>

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
    : backend_(backend), tree_(backend, checked(shape, head)), tree_room_(tree_.size()) {
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

void TreeGrower::reserve() {
  const auto all = static_cast<std::size_t>(pool().capacity()), levels = static_cast<std::size_t>(pool().levels);
  const auto branch = static_cast<std::size_t>(pool().branch);
  candidates_.reserve(all);
  nodes_.reserve(all);
  scratch_floats_.reserve(all);
  host_.reserve(all + 1);
  frontier_.reserve(branch * branch);
  scratch_notes_.reserve(branch);
  scratch_ints_.reserve(branch * std::max(branch, 3 + levels));
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
                           *rules.rejection, rules.sequence.length);
    return;
  }
  std::optional<DraftNoise> noise = noise_of(rules);
  if (noise) {
    noise->offset = level + 1;
    noise->token_of_id = token_of_id;
  }
  head.top_k(hidden, {.ids = ids, .scores = scores, .k = pool().branch}, noise);
}

void TreeGrower::add_children(const Growth& growth, int level, int rows) {
  const auto k = static_cast<std::size_t>(pool().branch);
  const std::size_t count = static_cast<std::size_t>(rows) * k;
  scratch_ints_.resize(count);
  scratch_floats_.resize(count);
  backend_.download(scratch_ints_.data(), child_ids_.as<void>(), count * sizeof(std::int32_t));
  backend_.download(scratch_floats_.data(), child_scores_.as<void>(), count * sizeof(float));
  level_begin_ = candidates_.size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t parent = level == 0 ? -1 : frontier_[i / k];
    const NodeNote above = parent < 0 ? NodeNote{} : candidates_[static_cast<std::size_t>(parent)].note;
    const float before = parent < 0 ? 0.0f : candidates_[static_cast<std::size_t>(parent)].score;
    candidates_.push_back({scratch_ints_[i], parent, before + scratch_floats_[i],
                           growth.judge(above, scratch_floats_[i], level + 1), -1});
  }
}

int TreeGrower::follow(Growth& growth, int level) {
  const auto better = [this](std::int32_t a, std::int32_t b) {
    const float left = candidates_[static_cast<std::size_t>(a)].note.chance;
    const float right = candidates_[static_cast<std::size_t>(b)].note.chance;
    return left != right ? left > right : a < b;
  };
  frontier_.resize(candidates_.size() - level_begin_);
  std::iota(frontier_.begin(), frontier_.end(), static_cast<std::int32_t>(level_begin_));
  const std::size_t most = std::min(frontier_.size(), static_cast<std::size_t>(pool().branch));
  std::partial_sort(frontier_.begin(), frontier_.begin() + static_cast<std::ptrdiff_t>(most), frontier_.end(), better);
  frontier_.resize(most);
  scratch_notes_.clear();
  for (const std::int32_t at : frontier_) scratch_notes_.push_back(candidates_[static_cast<std::size_t>(at)].note);
  scratch_floats_.clear();
  for (const DraftCandidate& candidate : candidates_) scratch_floats_.push_back(candidate.note.chance);
  std::sort(scratch_floats_.begin(), scratch_floats_.end(), std::greater<>());
  const int rows = std::min(growth.width(scratch_notes_, scratch_floats_), static_cast<int>(most));
  frontier_.resize(static_cast<std::size_t>(rows));
  if (rows == 0) return 0;
  // Tokens, rows of the parents' states, depths and paths, as tree_expand leaves them.
  const auto count = static_cast<std::size_t>(rows), stride = static_cast<std::size_t>(pool().levels);
  scratch_ints_.assign(count * (3 + stride), 0);
  for (std::size_t r = 0; r < count; ++r) {
    DraftCandidate& node = candidates_[static_cast<std::size_t>(frontier_[r])];
    node.row = static_cast<std::int32_t>(r);
    scratch_ints_[r] = node.token;
    scratch_ints_[count + r] = node.parent < 0 ? 0 : candidates_[static_cast<std::size_t>(node.parent)].row;
    scratch_ints_[2 * count + r] = level - 1;
    std::int32_t at = frontier_[r];
    for (int l = level - 1; l >= 0; --l, at = candidates_[static_cast<std::size_t>(at)].parent) {
      scratch_ints_[3 * count + r * stride + static_cast<std::size_t>(l)] =
          l * pool().branch + candidates_[static_cast<std::size_t>(at)].row;
    }
  }
  const auto upload = [&](std::int32_t* to, std::size_t from, std::size_t number) {
    backend_.upload(to, scratch_ints_.data() + from, number * sizeof(std::int32_t));
  };
  upload(pool().frontier_tokens, 0, count);
  upload(pool().frontier_rows, count, count);
  upload(pool().frontier_depth, 2 * count, count);
  upload(pool().frontier_path, 3 * count, count * stride);
  return rows;
}

const DraftTree& TreeGrower::select(const Growth& growth, TokenId root, std::span<const TokenId> token_of_id) {
  host_.begin(root);
  nodes_.clear();
  for (const DraftCandidate& candidate : candidates_) {
    const TokenId own = token_of_id.empty() ? candidate.token : token_of_id[static_cast<std::size_t>(candidate.token)];
    const std::int32_t parent = candidate.parent < 0 ? 0 : nodes_[static_cast<std::size_t>(candidate.parent)];
    nodes_.push_back(host_.add(parent, own, candidate.note));
  }
  host_.prune(growth, static_cast<std::size_t>(tree_room_));
  tree_.assign(backend_, host_.tokens(), host_.parents(), host_.notes());
  tree_.set_proposals(nullptr);
  return tree_;
}

}  // namespace frspec
