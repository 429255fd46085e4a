// Keys that are compared instead of (value, index): the greater one has the higher value or, where values are equal,
// the lower index. No two are equal. What is not a number comes last.
#pragma once

#include "cuda/device/numbers.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

__device__ inline std::uint64_t order_key(float value, std::int32_t index) {
  std::uint32_t bits = float_to_bits(value == 0.0f ? 0.0f : value);  // -0 is 0
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  if (value != value) bits = 0;
  return (static_cast<std::uint64_t>(bits) << 32) | ~static_cast<std::uint32_t>(index);
}
__device__ inline std::int32_t index_of_key(std::uint64_t key) {
  return static_cast<std::int32_t>(~static_cast<std::uint32_t>(key));
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
