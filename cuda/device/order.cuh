// Keys that are compared instead of values, or of values with their columns: the greater one is the better one.
#pragma once

#include "cuda/device/numbers.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// Integers in the order of floats; NaN counts as -infinity, both zeros are alike. 0 is below all of them.
inline constexpr std::uint32_t kLowestKey = 0x007FFFFF;  // of -infinity
__device__ inline std::uint32_t order_key(float x) {
  const std::uint32_t bits = float_to_bits(x);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return kLowestKey;
  if ((bits & 0x7FFFFFFF) == 0) return 0x80000000;
  return (bits & 0x80000000) != 0 ? ~bits : bits | 0x80000000;
}
__device__ inline float float_of_key(std::uint32_t key) {
  return bits_to_float((key & 0x80000000) != 0 ? key ^ 0x80000000 : ~key);
}

// The same with the column, or another index: better values are larger, then lower columns. No two columns are equal.
__device__ inline std::uint64_t column_key(float x, std::int32_t column) {
  return (std::uint64_t{order_key(x)} << 32) | (0xFFFFFFFFu - static_cast<std::uint32_t>(column));
}
__device__ inline std::int32_t column_of_key(std::uint64_t key) {
  return static_cast<std::int32_t>(0xFFFFFFFFu - static_cast<std::uint32_t>(key));
}
__device__ inline float value_of_key(std::uint64_t key) { return float_of_key(static_cast<std::uint32_t>(key >> 32)); }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
