// CUDA backend: the sampler chain, as cpp/cpu/row_chain.cpp defines it. One block for each row; kept.cuh has the
// filters.
//
// What is still in is never sorted. Every filter but typical-p keeps the best of what it is given, so all that must be
// known is where the last one was: a value, and among equal values the last column. These places are found by radix
// selection (device/cut.cuh), by count or by weight; a weight is exp(value - best) as an integer, so that sums do not
// depend on the order of the threads. Typical-p keeps those whose information is near the entropy: another cut, by
// distance.
//
// Memory: a row is read by 16-byte loads, neighbouring threads at neighbouring addresses; each read after the first
// comes from the L2 cache. Plain top-k, top-p and min-p read it two to four times (the maximum and a bar that all that
// can matter is above; what is above the bar, mostly a few hundred columns that fit into shared memory; the result),
// and write it once. Rows that are flat are read anew in every pass of a selection. Penalties and biases touch single
// columns, and counts in a table of the row's own, which is left as it was found: zero.
#include <algorithm>
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/kept.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kMostThreads = 512;

struct Task {
  Tensor logits;
  const std::int32_t* tokens;
  std::int32_t* counts;  // (rows, cols); null where nothing is counted
  double unit;           // what the weight 1 is: weights of all columns together stay below 2^63
  float log_min_p;
};

// --- Sets of tokens ---

__device__ inline bool is_in(const std::uint32_t* bits, std::int64_t token) {
  return (bits[token / 32] >> (token % 32) & 1u) != 0;
}

// Whether something is allowed that is not held back.
__device__ inline bool leaves_others(const std::uint32_t* allowed, std::int64_t cols, const SamplerChain& chain,
                                     float* scratch) {
  float left = 0.0f;  // exact: no vocabulary has 2^24 tokens
  for (std::int64_t i = thread(); i < cols; i += threads()) left += is_in(allowed, i) ? 1.0f : 0.0f;
  for (int i = thread(); i < chain.held; i += threads()) left -= is_in(allowed, chain.held_ids[i]) ? 1.0f : 0.0f;
  return block_sum(left, scratch) > 0.0f;
}

// --- Changes of single columns ---

// Biases, in the order of their list where a column has several.
__device__ inline void add_biases(float* row, std::int64_t cols, const SamplerChain& chain, std::int32_t* counts) {
  const auto is_column = [&](std::int32_t id) { return id >= 0 && id < cols; };
  for (int i = thread(); i < chain.biased; i += threads()) {
    if (is_column(chain.bias_ids[i])) atomic_add(counts + chain.bias_ids[i], 1);
  }
  block_sync();
  bool several = false;
  for (int i = thread(); i < chain.biased; i += threads()) {
    const std::int32_t id = chain.bias_ids[i];
    if (!is_column(id)) continue;
    if (counts[id] == 1) {
      row[id] += chain.bias[i];
    } else {
      several = true;
    }
  }
  if (block_any(several) && thread() == 0) {
    for (int i = 0; i < chain.biased; ++i) {
      const std::int32_t id = chain.bias_ids[i];
      if (is_column(id) && counts[id] > 1) row[id] += chain.bias[i];
    }
  }
  block_sync();
  for (int i = thread(); i < chain.biased; i += threads()) {
    if (is_column(chain.bias_ids[i])) counts[chain.bias_ids[i]] = 0;
  }
  block_sync();
}

// The last tokens of a row's sequence: those of the prefix, then those on its path.
struct Recent {
  __device__ Recent(const Rows& rows, std::int64_t row, std::int64_t depth, const std::int32_t* pass,
                    const SamplerChain& chain)
      : history(chain.history),
        tokens(pass),
        path(rows.path != nullptr ? rows.path + row * rows.path_stride : nullptr),
        prefix(*rows.sequence.length),
        end(prefix + depth + 1),
        begin(end > chain.last_n ? end - chain.last_n : 0) {}

  __device__ std::int32_t token(std::int64_t i) const {
    if (i < prefix) return history[i];
    return tokens[path != nullptr ? path[i - prefix] : i - prefix];
  }

  const std::int32_t *history, *tokens, *path;
  std::int64_t prefix, end, begin;
};

__device__ inline void penalize(float* row, std::int64_t cols, const SamplerChain& chain, const Recent& recent,
                                std::int32_t* counts) {
  for (std::int64_t i = recent.begin + thread(); i < recent.end; i += threads()) {
    const std::int32_t id = recent.token(i);
    if (id >= 0 && id < cols) atomic_add(counts + id, 1);
  }
  block_sync();
  for (std::int64_t i = recent.begin + thread(); i < recent.end; i += threads()) {
    const std::int32_t id = recent.token(i);
    if (id < 0 || id >= cols) continue;
    const std::int32_t count = atomic_exchange(counts + id, 0);
    if (count == 0) continue;  // this token had its turn
    float x = row[id];
    x = x <= 0.0f ? x * chain.repeat : x / chain.repeat;
    x -= static_cast<float>(count) * chain.frequency + chain.presence;
    row[id] = x;
  }
  block_sync();
}

// --- The chain ---

// Grid (rows).
__global__ void __launch_bounds__(kMostThreads) process_row(Task task, Rows rows, SamplerChain chain) {
  SharedMemory memory;
  const KeptMemory shared(memory);
  const std::int64_t index = block_x(), cols = task.logits.cols;
  const std::int64_t depth = rows.depth != nullptr ? rows.depth[index] : index;
  float* row = task.logits.row(index);
  std::int32_t* counts = task.counts != nullptr ? task.counts + index * cols : nullptr;
  const std::uint32_t* allowed = rows.allowed ? rows.allowed.row(index) : nullptr;
  if (allowed != nullptr) {
    for (std::int64_t i = thread(); i < cols; i += threads()) {
      if (!is_in(allowed, i)) row[i] = kMinusInfinity;
    }
    block_sync();
  }
  if (chain.biased > 0) add_biases(row, cols, chain, counts);
  if (chain.held > 0 && *rows.sequence.length + depth + 1 < chain.held_until &&
      (allowed == nullptr || leaves_others(allowed, cols, chain, shared.floats))) {
    for (int i = thread(); i < chain.held; i += threads()) row[chain.held_ids[i]] = kMinusInfinity;
    block_sync();
  }
  if (chain.has_penalties()) penalize(row, cols, chain, Recent(rows, index, depth, task.tokens, chain), counts);

  float most = kMinusInfinity;
  for_each_column(row, cols, [&](float value, std::int32_t) { most = value > most ? value : most; });
  const float best = block_max(most, shared.floats);
  if (!(best > kMinusInfinity && best < -kMinusInfinity)) return;
  const bool is_sampled = chain.temperature > 0.0f;
  // The most probable token passes every filter but typical-p.
  const bool filters = is_sampled ? chain.filters() : chain.typical_p < 1.0f;
  if (!filters && chain.dynatemp_range == 0.0f) {
    if (!is_sampled || chain.temperature == 1.0f) return;
    for (std::int64_t i = thread(); i < cols; i += threads()) row[i] /= chain.temperature;
    return;
  }

  Kept kept(row, cols, task.unit, shared);
  kept.set_best(best);
  if (chain.top_k > 0) {
    const std::int64_t k = chain.top_k < cols ? chain.top_k : cols;
    if (k <= threads()) {  // the best of each thread tell what is the least that can be among the k best
      const Cut bar = shared.cut.cut<false>(kLowestKey + 1, order_key(best), static_cast<std::uint64_t>(k),
                                            [&](auto&& offer) { offer(order_key(most), [] { return 1u; }); });
      kept.raise(static_cast<std::uint32_t>(bar.key));
    }
    kept.list();
    kept.cut_count(k);
    kept.list();
  } else if (chain.typical_p == 1.0f && chain.top_p < 1.0f) {
    kept.cut_nucleus_of_row(static_cast<double>(chain.top_p));
  }
  if (chain.typical_p < 1.0f) {
    kept.cut_typical(static_cast<double>(chain.typical_p));
    kept.find_best();
    kept.list();
  }
  if (chain.top_p < 1.0f && (chain.top_k > 0 || chain.typical_p < 1.0f)) {
    kept.cut_nucleus(static_cast<double>(chain.top_p));
  }
  if (chain.min_p > 0.0f) {
    const float least = kept.best() + task.log_min_p;
    kept.raise(order_key(least < kept.best() ? least : kept.best()));
  }
  const float temperature = is_sampled ? kept.dynamic_temperature(chain) : 1.0f;
  block_sync();
  const bool aligned = is_aligned_16(row);
  for (std::int64_t at = 4 * thread(); at < cols; at += 4 * threads()) {
    Floats4 four = load_logits(row + at, cols - at, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool is_in = kept.has(four.value[i], static_cast<std::int32_t>(at + i));
      four.value[i] = is_in ? four.value[i] / temperature : kMinusInfinity;
    }
    if (aligned && cols - at >= 4) {
      store_as(row + at, four);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (at + i < cols) row[at + i] = four.value[i];
    }
  }
}

}  // namespace

void CudaBackend::process(Tensor logits, const Rows& rows, const std::int32_t* tokens, const SamplerChain& chain) {
  if (rows.count == 0) return;
  int bits = 0;
  while ((std::int64_t{1} << bits) < logits.cols) ++bits;
  const bool counts = chain.biased > 0 || chain.has_penalties();
  const Task task{
      .logits = logits,
      .tokens = tokens,
      .counts = counts ? counts_.take<std::int32_t>(static_cast<std::size_t>(rows.count * logits.cols)) : nullptr,
      .unit = std::ldexp(1.0, 62 - bits),
      .log_min_p = chain.min_p > 0.0f ? std::log(chain.min_p) : 0.0f};
  const std::int64_t wanted = (logits.cols / 16 + 31) / 32 * 32;
  launch("process_row", process_row, Grid{rows.count},
         static_cast<int>(std::clamp<std::int64_t>(wanted, 64, kMostThreads)), KeptMemory::bytes(), task, rows, chain);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
