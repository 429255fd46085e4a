// CUDA backend: the sampler chain, as cpp/cpu/row_chain.cpp defines it. One block for each row.
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
#include <bit>
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/device/columns.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kMostThreads = 512;
constexpr int kListed = 2048;              // columns that fit into shared memory
constexpr std::int32_t kAll = 0x7FFFFFFF;  // as a last column
constexpr int kSlices = 5;                 // of the values below the best: 4, 6.4, 10.24, ...
constexpr float kFirstSlice = 4.0f, kNextSlice = 1.6f;
constexpr float kExact = 8.0f;  // below the best: where weights need double precision, among all columns
constexpr double kEntropyUnit = 0x1p56;
constexpr std::uint64_t kInfiniteBits = 0x7FF0000000000000;  // of a double

struct Task {
  Tensor logits;
  const std::int32_t* tokens;
  std::int32_t* counts;  // (rows, cols)
  double unit;           // what the weight 1 is: weights of all columns together stay below 2^63
  float log_min_p;
};

struct Shared {
  __device__ explicit Shared(SharedMemory& memory)
      : cut(memory),
        floats(memory.take<float>(kWarp)),
        wide(memory.take<std::uint64_t>(kWarp)),
        flag(memory.take<int>(1)),
        values(memory.take<float>(kListed)),
        columns(memory.take<std::int32_t>(kListed)) {}
  static std::size_t bytes() {
    return CutMemory::bytes() + shared_bytes<float>(kWarp) + shared_bytes<std::uint64_t>(kWarp) + shared_bytes<int>(1) +
           shared_bytes<float>(kListed) + shared_bytes<std::int32_t>(kListed);
  }

  CutMemory cut;
  float* floats;
  std::uint64_t* wide;
  int* flag;
  float* values;
  std::int32_t* columns;
};

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
        prefix(*rows.prefix),
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

// --- What is still in ---

// Calls f(value, column) for this thread's columns of a row.
template <class F>
__device__ inline void for_each_column(const float* row, std::int64_t cols, F&& f) {
  const bool aligned = is_aligned_16(row);
  const int step = 4 * threads();
  std::int64_t at = 4 * thread();
  // Two loads are on their way while a third is looked at.
  FourFloats four = load_four(row + at, cols - at, aligned),
             next = load_four(row + at + step, cols - at - step, aligned);
  for (; at < cols; at += step) {
    const FourFloats further = load_four(row + at + 2 * step, cols - at - 2 * step, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (at + i < cols) f(four.x[i], static_cast<std::int32_t>(at + i));
    }
    four = next;
    next = further;
  }
}

class Kept {
 public:
  __device__ Kept(const float* row, std::int64_t cols, double unit, const Shared& shared)
      : row_(row), cols_(cols), unit_(unit), shared_(shared) {}

  // Calls f(value, column) for those of this thread that are in.
  template <class F>
  __device__ void for_each(F&& f) const {
    const auto offer = [&](float value, std::int32_t column) {
      if (has(value, column)) f(value, column);
    };
    if (listed_ < 0) return for_each_column(row_, cols_, offer);
    for (int i = thread(); i < listed_; i += threads()) offer(shared_.values[i], shared_.columns[i]);
  }

  __device__ bool has(float value, std::int32_t column) const {
    const std::uint32_t key = order_key(value);
    if (key < cut_ || (key == cut_ && column > last_)) return false;
    return !typical_.is_set || typical_.has(value, column);
  }

  // The largest value of all that are in becomes the best: what weights are relative to.
  __device__ void find_best() {
    float most = kMinusInfinity;
    for_each([&](float value, std::int32_t) { most = value > most ? value : most; });
    set_best(block_max(most, shared_.floats));
  }
  __device__ void set_best(float value) { best_ = value; }
  __device__ float best() const { return best_; }

  // Nothing below the value with this key is in.
  __device__ void raise(std::uint32_t key) {
    if (key <= cut_) return;
    cut_ = key;
    last_ = kAll;
  }

  // Copies all that are in to shared memory, if there is room.
  __device__ void list() {
    if (listed_ >= 0) return;
    if (thread() == 0) *shared_.flag = 0;
    block_sync();
    for_each([&](float value, std::int32_t column) {
      const int at = atomic_add(shared_.flag, 1);
      if (at >= kListed) return;
      shared_.values[at] = value;
      shared_.columns[at] = column;
    });
    block_sync();
    if (*shared_.flag <= kListed) listed_ = *shared_.flag;
    block_sync();
  }

  // Keeps the best `count`.
  __device__ void cut_count(std::int64_t count) {
    const auto one = [] { return std::uint64_t{1}; };
    const auto target = static_cast<std::uint64_t>(count);
    const Cut cut = shared_.cut.cut<false>(cut_, order_key(best_), target, [&](auto&& offer) {
      for_each([&](float value, std::int32_t) { offer(order_key(value), one); });
    });
    raise(static_cast<std::uint32_t>(cut.key));
    if (!cut.exact) keep_ties(target - cut.before);
  }

  // Keeps the best until they have `share` of the total weight.
  __device__ void cut_nucleus(double share) { cut_weight(total_weight(), share); }
  __device__ void cut_weight(std::uint64_t total, double share) {
    const std::uint64_t target = share_of(total, share);
    const Cut cut = shared_.cut.cut<true>(cut_, order_key(best_), target, [&](auto&& offer) {
      for_each([&](float value, std::int32_t) { offer(order_key(value), [&] { return weight(value); }); });
    });
    raise(static_cast<std::uint32_t>(cut.key));
    if (cut.exact) return;
    // All of them are equal, and so are their weights.
    const std::uint64_t each = weight(float_of_key(cut_));
    keep_ties((target - cut.before + each - 1) / each);
  }

  // Among all columns of a row: first finds a bar that the nucleus is above, so that few are looked at closely.
  __device__ void cut_nucleus_of_row(double share) {
    is_coarse_ = true;
    std::uint64_t above[kSlices] = {}, all = 0;
    for_each([&](float value, std::int32_t) {
      const std::uint64_t w = weight(value);
      all += w;
      float depth = kFirstSlice;
#pragma unroll
      for (int s = 0; s < kSlices; ++s, depth *= kNextSlice) above[s] += value >= best_ - depth ? w : 0;
    });
    all = block_sum(all, shared_.wide);
    const std::uint64_t target = share_of(all, share);
    bool found = false;
    float depth = kFirstSlice;
#pragma unroll
    for (int s = 0; s < kSlices; ++s, depth *= kNextSlice) {
      const std::uint64_t sum = block_sum(above[s], shared_.wide);
      if (!found && sum >= target) {
        found = true;
        raise(order_key(best_ - depth));
      }
    }
    list();
    cut_weight(all, share);
    is_coarse_ = false;
  }

  // Locally typical sampling: those whose information is nearest to the entropy, until they hold more than the share.
  __device__ void cut_typical(double share) {
    const std::uint64_t total = total_weight();
    typical_.best = static_cast<double>(best_);
    typical_.log_total = std::log(static_cast<double>(total) / unit_);
    typical_.mean = entropy(total);
    // Where the distances are: the larger key is the nearer one.
    std::uint64_t nearest = 0, farthest = 0;
    for_each([&](float value, std::int32_t) {
      const std::uint64_t bits = typical_.distance(value);
      nearest = kInfiniteBits - bits > nearest ? kInfiniteBits - bits : nearest;
      farthest = bits > farthest ? bits : farthest;
    });
    nearest = block_max(nearest, shared_.wide);
    farthest = kInfiniteBits - block_max(farthest, shared_.wide);
    const std::uint64_t target = static_cast<std::uint64_t>(share * static_cast<double>(total)) + 1;
    const Cut cut = shared_.cut.cut<true>(farthest, nearest, target, [&](auto&& offer) {
      for_each([&](float value, std::int32_t) {
        offer(kInfiniteBits - typical_.distance(value), [&] { return weight(value); });
      });
    });
    const std::uint64_t most = kInfiniteBits - cut.key;
    std::int32_t last = kAll;
    if (!cut.exact) {  // equal distances, perhaps of two values: by the columns
      last = last_column<true>(target - cut.before, [&](float value) { return typical_.distance(value) == most; });
    }
    typical_.most = most;
    typical_.last = last;
    typical_.is_set = true;
  }

  // From temperature - range to temperature + range, by the entropy of what is left over the largest it could have.
  __device__ float dynamic_temperature(const SamplerChain& chain) const {
    if (chain.dynatemp_range == 0.0f) return chain.temperature;
    std::uint64_t count = 0;
    for_each([&](float, std::int32_t) { ++count; });
    count = block_sum(count, shared_.wide);
    if (count < 2) return chain.temperature;
    const float lowest = chain.temperature - chain.dynatemp_range;
    const float least = lowest > 0.0f ? lowest : 0.0f;
    const float most = chain.temperature + chain.dynatemp_range;
    const double share = entropy(total_weight()) / std::log(static_cast<double>(count));
    const float found =
        least + (most - least) * static_cast<float>(std::pow(share, static_cast<double>(chain.dynatemp_exponent)));
    return found > 1e-6f ? found : 1e-6f;
  }

 private:
  // What typical-p keeps.
  struct Typical {
    bool is_set = false;
    double best = 0.0, log_total = 0.0, mean = 0.0;
    std::uint64_t most = 0;  // distance, as the bits of a double
    std::int32_t last = kAll;

    __device__ std::uint64_t distance(float value) const {
      const double log_prob = static_cast<double>(value) - best - log_total;
      return std::bit_cast<std::uint64_t>(std::abs(-log_prob - mean));
    }
    __device__ bool has(float value, std::int32_t column) const {
      const std::uint64_t bits = distance(value);
      return bits < most || (bits == most && column <= last);
    }
  };

  __device__ std::uint64_t weight(float value) const {
    const double w = is_coarse_ && value < best_ - kExact
                         ? static_cast<double>(exp_of_difference(value - best_))
                         : std::exp(static_cast<double>(value) - static_cast<double>(best_));
    return static_cast<std::uint64_t>(w * unit_ + 0.5);
  }
  __device__ std::uint64_t total_weight() const {
    std::uint64_t sum = 0;
    for_each([&](float value, std::int32_t) { sum += weight(value); });
    return block_sum(sum, shared_.wide);
  }
  __device__ static std::uint64_t share_of(std::uint64_t total, double share) {
    const auto needed = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(total)));
    return needed > 0 ? needed : 1;
  }

  // Shannon entropy of all that are in, in nats.
  __device__ double entropy(std::uint64_t total_weight) const {
    const double total = static_cast<double>(total_weight) / unit_, log_total = std::log(total);
    std::int64_t sum = 0;
    for_each([&](float value, std::int32_t) {
      const double difference = static_cast<double>(value) - static_cast<double>(best_);
      sum += static_cast<std::int64_t>(std::exp(difference) / total * (log_total - difference) * kEntropyUnit);
    });
    sum = block_sum(sum, reinterpret_cast<std::int64_t*>(shared_.wide));
    return sum > 0 ? static_cast<double>(sum) / kEntropyUnit : 0.0;
  }

  // Of the least value that is in, keeps so many columns.
  __device__ void keep_ties(std::uint64_t count) {
    const std::int32_t last = last_column<false>(count, [&](float value) { return order_key(value) == cut_; });
    last_ = last < last_ ? last : last_;  // those that were out before stay out
  }

  // Of the columns that are in and whose value `is_tied`, the one at which their number, or weight, reaches the target;
  // or one behind it, in front of the next of them.
  template <bool kWeighted, class IsTied>
  __device__ std::int32_t last_column(std::uint64_t target, IsTied&& is_tied) const {
    const auto order = [](std::int64_t column) { return static_cast<std::uint64_t>(kAll - column); };
    const Cut cut = shared_.cut.cut<kWeighted>(order(cols_ - 1), order(0), target, [&](auto&& offer) {
      for_each([&](float value, std::int32_t column) {
        if (is_tied(value)) offer(order(column), [&] { return weight(value); });
      });
    });
    return kAll - static_cast<std::int32_t>(cut.key);
  }

  const float* row_;
  std::int64_t cols_;
  double unit_;
  const Shared& shared_;
  int listed_ = -1;  // columns in shared memory; below 0: all of the row are looked at
  std::uint32_t cut_ = kLowestKey + 1;
  std::int32_t last_ = kAll;  // column whose value has just this key
  Typical typical_;
  float best_ = kMinusInfinity;
  bool is_coarse_ = false;
};

// --- The chain ---

// Grid (rows).
__global__ void __launch_bounds__(kMostThreads) process_row(Task task, Rows rows, SamplerChain chain) {
  SharedMemory memory;
  const Shared shared(memory);
  const std::int64_t index = block_x(), cols = task.logits.cols;
  const std::int64_t depth = rows.depth != nullptr ? rows.depth[index] : index;
  float* row = task.logits.row(index);
  std::int32_t* counts = task.counts + index * cols;
  if (chain.biased > 0) add_biases(row, cols, chain, counts);
  if (chain.held > 0 && *rows.prefix + depth + 1 < chain.held_until) {
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
    FourFloats four = load_four(row + at, cols - at, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool is_in = kept.has(four.x[i], static_cast<std::int32_t>(at + i));
      four.x[i] = is_in ? four.x[i] / temperature : kMinusInfinity;
    }
    if (aligned && cols - at >= 4) {
      *reinterpret_cast<FourFloats*>(row + at) = four;
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (at + i < cols) row[at + i] = four.x[i];
    }
  }
}

}  // namespace

void CudaBackend::process(Tensor logits, const Rows& rows, const std::int32_t* tokens, const SamplerChain& chain) {
  if (rows.count == 0) return;
  int bits = 0;
  while ((std::int64_t{1} << bits) < logits.cols) ++bits;
  const Task task{.logits = logits,
                  .tokens = tokens,
                  .counts = counts_.take<std::int32_t>(static_cast<std::size_t>(rows.count * logits.cols)),
                  .unit = std::ldexp(1.0, 62 - bits),
                  .log_min_p = chain.min_p > 0.0f ? std::log(chain.min_p) : 0.0f};
  const std::int64_t wanted = (logits.cols / 16 + 31) / 32 * 32;
  launch("process_row", process_row, Grid{rows.count},
         static_cast<int>(std::clamp<std::int64_t>(wanted, 64, kMostThreads)), Shared::bytes(), task, rows, chain);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
