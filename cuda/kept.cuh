// What a sampler chain leaves in of a row, without sorting it: see chain.cu.
#pragma once

#include <bit>
#include <cmath>

#include "cuda/device/columns.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

inline constexpr int kListed = 2048;              // columns that fit into shared memory
inline constexpr std::int32_t kAll = 0x7FFFFFFF;  // as a last column
inline constexpr int kSlices = 5;                 // of the values below the best: 4, 6.4, 10.24, ...
inline constexpr float kFirstSlice = 4.0f, kNextSlice = 1.6f;
inline constexpr float kExact = 8.0f;  // below the best: where weights need double precision, among all columns
inline constexpr double kEntropyUnit = 0x1p56;
inline constexpr std::uint64_t kInfiniteBits = 0x7FF0000000000000;  // of a double

// Shared memory of the block that works on the row.
struct KeptMemory {
  __device__ explicit KeptMemory(SharedMemory& memory)
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

// Calls f(value, column) for this thread's columns of a row.
template <class F>
__device__ inline void for_each_column(const float* row, std::int64_t cols, F&& f) {
  const bool aligned = is_aligned_16(row);
  const int step = 4 * threads();
  std::int64_t at = 4 * thread();
  // Two loads are on their way while a third is looked at.
  Floats4 four = load_logits(row + at, cols - at, aligned),
          next = load_logits(row + at + step, cols - at - step, aligned);
  for (; at < cols; at += step) {
    const Floats4 further = load_logits(row + at + 2 * step, cols - at - 2 * step, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (at + i < cols) f(four.value[i], static_cast<std::int32_t>(at + i));
    }
    four = next;
    next = further;
  }
}

// Columns of a row: those that are in.
class Kept {
 public:
  __device__ Kept(const float* row, std::int64_t cols, double unit, const KeptMemory& shared)
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
      if (peek(shared_.flag) > kListed) return;  // too many: of a flat row, each addition would wait for all others
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
  const KeptMemory& shared_;
  int listed_ = -1;  // columns in shared memory; below 0: all of the row are looked at
  std::uint32_t cut_ = kLowestKey + 1;
  std::int32_t last_ = kAll;  // column whose value has just this key
  Typical typical_;
  float best_ = kMinusInfinity;
  bool is_coarse_ = false;
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
