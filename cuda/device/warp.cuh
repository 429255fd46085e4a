// Operations of a whole warp.
#pragma once

#include <type_traits>

#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

#ifdef FRSPEC_CUDA_EMULATED
// The value of lane `source`; T has 4 or 8 bytes.
template <class T>
T shuffle(T value, int source) {
  return emulation::current_block().exchange(value, source % kWarp);
}
template <class T>
T shuffle_xor(T value, int mask) {
  return emulation::current_block().exchange(value, lane() ^ mask);
}
inline unsigned ballot(bool predicate) { return emulation::current_block().ballot(predicate); }
// Orders the memory accesses of the warp's threads.
inline void warp_sync() { emulation::current_block().warp_sync(); }
inline int count_bits(unsigned bits) { return __builtin_popcount(bits); }
inline int lowest_bit(unsigned bits) { return __builtin_ctz(bits); }
#else
inline constexpr unsigned kFullWarp = 0xFFFFFFFFu;
template <class T>
__device__ inline T shuffle(T value, int source) {
  return __shfl_sync(kFullWarp, value, source);
}
template <class T>
__device__ inline T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kFullWarp, value, mask);
}
__device__ inline unsigned ballot(bool predicate) { return __ballot_sync(kFullWarp, predicate); }
__device__ inline void warp_sync() { __syncwarp(); }
__device__ inline int count_bits(unsigned bits) { return __popc(bits); }
__device__ inline int lowest_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }
#endif

// Combines the values of all lanes, always in the same order; every lane gets the result.
template <class T, class Combine>
__device__ inline T warp_reduce(T value, Combine&& combine) {
#ifdef FRSPEC_CUDA_EMULATED
  // The same tree, with one meeting of the lanes instead of five.
  return emulation::current_block().reduce(value, combine);
#else
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask);
    // The lower lane's value comes first, for both.
    value = (lane() & mask) == 0 ? combine(value, other) : combine(other, value);
  }
  return value;
#endif
}
template <class T>
__device__ inline T warp_sum(T value) {
  return warp_reduce(value, [](T a, T b) { return a + b; });
}
// The same of several values at once.
template <int count>
__device__ inline void warp_sums(float (&values)[count]) {
#ifdef FRSPEC_CUDA_EMULATED
  emulation::current_block().sum_all(values);
#else
#pragma unroll
  for (int i = 0; i < count; ++i) values[i] = warp_sum(values[i]);
#endif
}
template <class T>
__device__ inline T warp_max(T value) {
  return warp_reduce(value, [](T a, T b) { return a > b ? a : b; });
}

// The sum of the values of this lane and those below it.
template <class T>
__device__ inline T warp_prefix_sum(T value) {
#ifdef FRSPEC_CUDA_EMULATED
  static_assert(std::is_integral_v<T>, "where the order of additions does not matter");
  T all[kWarp];
  emulation::current_block().gather(value, all);
  for (int i = 1; i <= lane(); ++i) all[i] += all[i - 1];
  return all[lane()];
#else
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T lower = shuffle(value, lane() >= distance ? lane() - distance : lane());
    if (lane() >= distance) value += lower;
  }
  return value;
#endif
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
