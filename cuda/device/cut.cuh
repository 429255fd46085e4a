// Where to cut a set so that the best of it are as many, or weigh as much, as is wanted: a radix selection by the whole
// block. Nothing is sorted, and all sums are of integers, so it does not matter in which order threads add.
#pragma once

#include "cuda/device/block.cuh"
#include "cuda/device/order.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct Cut {
  std::uint64_t key = 0;     // the best are those from here on
  std::uint64_t before = 0;  // what those above it are, or weigh
  bool exact = true;         // otherwise several have this key, and not all of them are wanted
};

// Shared memory of a cut.
class CutMemory {
 public:
  static constexpr int kBuckets = 256;

  __device__ explicit CutMemory(SharedMemory& shared)
      : counts_(shared.take<std::uint32_t>(kBuckets)),
        low_(shared.take<std::uint32_t>(kBuckets)),
        high_(shared.take<std::uint32_t>(kBuckets)),
        found_(shared.take<Found>(1)) {}
  static constexpr std::size_t bytes() { return 3 * shared_bytes<std::uint32_t>(kBuckets) + shared_bytes<Found>(1); }

  // Cuts the keys from `low` to `high` where `target` >= 1 of them are above, or where they weigh so much. `visit`
  // calls its argument with (key, weight()) for each member that is this thread's; keys outside of the range are passed
  // over. Where all together are not enough, all are in. Every thread calls it, and gets the result; it is a barrier.
  template <bool kWeighted, class Visit>
  __device__ Cut cut(std::uint64_t low, std::uint64_t high, std::uint64_t target, Visit&& visit) const {
    Cut result;
    for (;;) {
      // Eight bits in each pass, the first of them the first that differs.
      const int bits = 64 - leading_zeros(high - low);
      const int shift = bits > 8 ? bits - 8 : 0;
      for (int b = thread(); b < kBuckets; b += threads()) counts_[b] = low_[b] = high_[b] = 0;
      block_sync();
      visit([&](std::uint64_t key, auto&& weight) {
        if (key < low || key > high) return;
        const auto b = static_cast<int>((high - key) >> shift);
        atomic_add(counts_ + b, 1u);
        if constexpr (kWeighted) add_wide(b, weight());
      });
      block_sync();
      if (warp() == 0) find<kWeighted>(target - result.before);
      block_sync();
      const Found found = *found_;
      if (found.bucket < 0) return {low, result.before, true};
      result.before += found.before;
      high -= static_cast<std::uint64_t>(found.bucket) << shift;
      const std::uint64_t width = (std::uint64_t{1} << shift) - 1;
      if (high - low > width) low = high - width;
      const bool all = found.count == 1 || result.before + found.weight == target;
      if (all || shift == 0) {
        result.key = low;
        result.exact = all;
        return result;
      }
    }
  }

 private:
  struct Found {
    std::uint64_t before, weight;
    std::int32_t bucket;  // -1: none
    std::uint32_t count;
  };

  // In two words: 64-bit atomics in shared memory may be loops.
  __device__ void add_wide(int b, std::uint64_t weight) const {
    const auto low = static_cast<std::uint32_t>(weight);
    const std::uint32_t before = atomic_add(low_ + b, low);
    const std::uint32_t high = static_cast<std::uint32_t>(weight >> 32) + (before + low < before ? 1u : 0u);
    if (high != 0) atomic_add(high_ + b, high);
  }

  template <bool kWeighted>
  __device__ std::uint64_t weight_of(int b) const {
    if constexpr (!kWeighted) return counts_[b];
    return (std::uint64_t{high_[b]} << 32) | low_[b];
  }

  // By one warp: the bucket in which the sum reaches `needed`.
  template <bool kWeighted>
  __device__ void find(std::uint64_t needed) const {
    constexpr int kEach = kBuckets / kWarp;
    std::uint64_t mine = 0;
    for (int i = 0; i < kEach; ++i) mine += weight_of<kWeighted>(lane() * kEach + i);
    const std::uint64_t upto = warp_prefix_sum(mine);
    const bool here = upto >= needed && upto - mine < needed;
    if (ballot(here) == 0 && lane() == 0) *found_ = {0, 0, -1, 0};
    if (!here) return;
    std::uint64_t before = upto - mine;
    int b = lane() * kEach;
    for (; before + weight_of<kWeighted>(b) < needed; ++b) before += weight_of<kWeighted>(b);
    *found_ = {before, weight_of<kWeighted>(b), b, counts_[b]};
  }

  std::uint32_t* counts_;
  std::uint32_t *low_, *high_;  // of the weights
  Found* found_;
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
