// CPU backend: growing and verifying draft trees.
#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

// Puts the `count` candidates with the highest scores among [first, last) into order[0, count), earlier ones first
// where scores are equal.
void best_candidates(const float* scores, std::int32_t first, std::int32_t last, std::int64_t count,
                     std::vector<std::int32_t>& order) {
  order.resize(static_cast<std::size_t>(last - first));
  std::iota(order.begin(), order.end(), first);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [scores](std::int32_t a, std::int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
}

}  // namespace

void CpuBackend::tree_expand(const CandidatePool& pool, int level, const std::int32_t* ids, const float* log_probs) {
  const int k = pool.branch;
  const int base = pool.base(level);
  const int parents = level == 0 ? 1 : k;
  for (int j = 0; j < parents; ++j) {
    const std::int32_t parent = level == 0 ? -1 : pool.frontier[j];
    const float score = level == 0 ? 0.0f : pool.scores[parent];
    for (int c = 0; c < k; ++c) {
      const int at = base + j * k + c;
      pool.tokens[at] = ids[j * k + c];
      pool.parents[at] = parent;
      pool.scores[at] = score + log_probs[j * k + c];
    }
  }
  if (level + 1 == pool.levels) return;  // nobody continues from the last level
  best_candidates(pool.scores, base, base + parents * k, k, order_);
  std::copy(pool.frontier_path, pool.frontier_path + k * pool.levels, pool.previous_path);
  for (int r = 0; r < k; ++r) {
    const std::int32_t candidate = order_[static_cast<std::size_t>(r)];
    const int parent_row = (candidate - base) / k;
    pool.frontier[r] = candidate;
    pool.frontier_tokens[r] = pool.tokens[candidate];
    pool.frontier_rows[r] = parent_row;
    pool.frontier_depth[r] = level;
    std::int32_t* path = pool.frontier_path + r * pool.levels;
    std::copy_n(pool.previous_path + parent_row * pool.levels, level, path);
    path[level] = level * k + r;
  }
}

void CpuBackend::map_ids(std::int32_t* ids, int count, const std::int32_t* map) {
  for (int i = 0; i < count; ++i) ids[i] = map[ids[i]];
}

void CpuBackend::tree_select(const TreeView& tree, const CandidatePool& pool, const SequenceView& sequence) {
  const int kept = tree.size - 1;
  const int stride = tree.max_depth + 1;
  tree.tokens[0] = sequence.history[*sequence.length];
  tree.parents[0] = -1;
  tree.depth[0] = 0;
  tree.path[0] = 0;
  if (kept == 0) return;
  best_candidates(pool.scores, 0, pool.capacity(), kept, order_);
  std::sort(order_.begin(), order_.begin() + kept);
  for (int i = 0; i < kept; ++i) {
    const std::int32_t candidate = order_[static_cast<std::size_t>(i)];
    // A parent's score is never below its child's and its index is lower, so it is kept, too, and stands before.
    const std::int32_t parent = pool.parents[candidate];
    const auto parent_at = std::lower_bound(order_.begin(), order_.begin() + i, parent) - order_.begin();
    const int node = i + 1;
    const int parent_node = parent < 0 ? 0 : static_cast<int>(parent_at) + 1;
    tree.tokens[node] = pool.tokens[candidate];
    tree.parents[node] = parent_node;
    tree.depth[node] = tree.depth[parent_node] + 1;
    std::copy_n(tree.path + parent_node * stride, tree.depth[node], tree.path + node * stride);
    tree.path[node * stride + tree.depth[node]] = node;
  }
}

namespace {

// Walks down from the root, where token_after(node) is the target's token after a node.
template <class TokenAfter>
void walk_down(const VerdictView& verdict, const TreeView& tree, TokenAfter&& token_after) {
  int node = 0;
  int count = 0;
  for (;;) {
    const std::int32_t token = token_after(node);
    verdict.nodes[count] = node;
    verdict.tokens[count] = token;
    ++count;
    int child = node + 1;
    while (child < tree.size && !(tree.parents[child] == node && tree.tokens[child] == token)) ++child;
    if (child == tree.size) break;
    node = child;
  }
  *verdict.count = count;
}

}  // namespace

void CpuBackend::verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) {
  walk_down(verdict, tree, [sampled](int node) { return sampled[node]; });
}

// Only the nodes on the accepted path are processed and drawn from: a handful of a tree's.
void CpuBackend::verify_logits(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                               const SamplerChain& chain, const Sampling& draw) {
  walk_down(verdict, tree, [&](int node) {
    const Tensor row = logits.row_range(node, 1);
    std::int32_t token = -1;
    process(row, rows.range(node, 1), tree.tokens, chain);
    sample(&token, row, rows.range(node, 1), draw);
    return token;
  });
}

void CpuBackend::pretend_acceptance(std::int32_t* sampled, const TreeView& tree, const Rows& rows, float probability,
                                    std::uint64_t seed) {
  for (int node = 0; node < tree.size; ++node) {
    const auto position = static_cast<std::uint32_t>(*rows.sequence.length + tree.depth[node]);
    const std::uint32_t bits = philox({position, 0, 0, 0}, seed)[0];
    const bool agrees = static_cast<float>(bits) * 2.3283064365386963e-10f < probability;
    // The children of a node stand in the order of their scores within a level; the first is the best.
    std::int32_t best = -1;
    bool drafted = false;
    for (int child = node + 1; child < tree.size; ++child) {
      if (tree.parents[child] != node) continue;
      if (best < 0) best = tree.tokens[child];
      drafted |= tree.tokens[child] == sampled[node];
    }
    if (agrees && best >= 0) {
      sampled[node] = best;
    } else if (drafted) {
      // Another token that is nobody's child: the lowest such id.
      for (std::int32_t token = 0;; ++token) {
        bool taken = false;
        for (int child = node + 1; child < tree.size; ++child) {
          taken |= tree.parents[child] == node && tree.tokens[child] == token;
        }
        if (!taken) {
          sampled[node] = token;
          break;
        }
      }
    }
  }
}

}  // namespace frspec::cpu
