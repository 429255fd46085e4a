// CPU backend: choosing tokens, growing and verifying draft trees.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// The k best of n values into columns/values, best first, ties to the lower column; NaN counts as -infinity.
void best_columns(const float* x, std::int64_t n, int k, std::int32_t* columns, float* values) {
  int kept = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = std::isnan(x[i]) ? kLowest : x[i];
    if (kept == k && !(value > values[k - 1])) continue;
    int at = kept < k ? kept++ : k - 1;
    for (; at > 0 && value > values[at - 1]; --at) {
      values[at] = values[at - 1];
      columns[at] = columns[at - 1];
    }
    values[at] = value;
    columns[at] = static_cast<std::int32_t>(i);
  }
}

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

void CpuBackend::top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) {
  pool_.parallel_for(logits.rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const float* x = logits.row(r);
      const float top = kernels_.maximum(x, logits.cols);
      const float log_sum = top + std::log(kernels_.sum_exp(x, logits.cols, top));
      best_columns(x, logits.cols, k, ids + r * k, log_probs + r * k);
      for (int i = 0; i < k; ++i) {
        const float log_prob = log_probs[r * k + i] - log_sum;
        // Rounding may lift it above 0; logits that are not finite may leave no number at all.
        log_probs[r * k + i] = log_prob < 0.0f ? log_prob : (log_prob >= 0.0f ? 0.0f : -1e30f);
        if (column_ids != nullptr) ids[r * k + i] = column_ids[ids[r * k + i]];
      }
    }
  });
}

void CpuBackend::sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) {
  const bool noisy = sampling.temperature > 0.0f;
  pool_.parallel_for(rows.count, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const float* x = logits.row(r);
      const std::int64_t depth = rows.depth != nullptr ? rows.depth[r] : r;
      const auto position = static_cast<std::uint64_t>(*rows.prefix + depth + 1);
      std::int64_t best = -1;
      float best_value = kLowest;
      for (std::int64_t first = 0; first < logits.cols; first += 4) {
        PhiloxBlock bits{};
        if (noisy) {
          bits = philox({static_cast<std::uint32_t>(first >> 2), static_cast<std::uint32_t>(position),
                         static_cast<std::uint32_t>(position >> 32), 0},
                        sampling.seed);
        }
        const std::int64_t last = std::min(first + 4, logits.cols);
        for (std::int64_t v = first; v < last; ++v) {
          const float value =
              noisy ? x[v] / sampling.temperature + gumbel_from_bits(bits[static_cast<std::size_t>(v - first)]) : x[v];
          if (value > best_value) {
            best_value = value;
            best = v;
          }
        }
      }
      tokens[r] = best_value < -kLowest ? static_cast<std::int32_t>(best) : -1;
    }
  });
}

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

void CpuBackend::tree_select(const TreeView& tree, const CandidatePool& pool, const std::int32_t* root_token) {
  const int kept = tree.size - 1;
  const int stride = tree.max_depth + 1;
  tree.tokens[0] = *root_token;
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

void CpuBackend::verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) {
  int node = 0;
  int count = 0;
  for (;;) {
    const std::int32_t token = sampled[node];
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

void CpuBackend::take_last(std::int32_t* token, const VerdictView& verdict) {
  *token = verdict.tokens[*verdict.count - 1];
}

}  // namespace frspec::cpu
