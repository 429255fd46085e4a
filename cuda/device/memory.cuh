// Reading and writing memory in pieces of 8 and 16 bytes, at addresses that are multiples of as much.
#pragma once

#include <bit>

#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct alignas(8) Words2 {
  std::uint32_t word[2];
};
struct alignas(16) Words4 {
  std::uint32_t word[4];
};
struct alignas(8) Floats2 {
  float value[2];
};
struct alignas(16) Floats4 {
  float value[4];
};

#ifdef FRSPEC_CUDA_EMULATED
template <class T>
T load_as(const void* from) {
  emulation::current_block().expect_aligned(from, sizeof(T));
  return *static_cast<const T*>(from);
}
template <class T>
void store_as(void* to, const T& value) {
  emulation::current_block().expect_aligned(to, sizeof(T));
  *static_cast<T*>(to) = value;
}
#else
// Through the vector types, which compilers never split into smaller accesses.
template <class T>
__device__ inline T load_as(const void* from) {
  T result;
  if constexpr (sizeof(T) == 16) {
    const uint4 words = *static_cast<const uint4*>(from);
    result = std::bit_cast<T>(words);
  } else if constexpr (sizeof(T) == 8) {
    const uint2 words = *static_cast<const uint2*>(from);
    result = std::bit_cast<T>(words);
  } else {
    result = *static_cast<const T*>(from);
  }
  return result;
}
template <class T>
__device__ inline void store_as(void* to, const T& value) {
  if constexpr (sizeof(T) == 16) {
    *static_cast<uint4*>(to) = std::bit_cast<uint4>(value);
  } else if constexpr (sizeof(T) == 8) {
    *static_cast<uint2*>(to) = std::bit_cast<uint2>(value);
  } else {
    *static_cast<T*>(to) = value;
  }
}
#endif

// Four neighbours, of which the first `count` are there; in one access where `aligned` says that it may be.
__device__ inline Floats4 load_four(const float* from, std::int64_t count, bool aligned, float missing = 0.0f) {
  if (aligned && count >= 4) return load_as<Floats4>(from);
  Floats4 four = {{missing, missing, missing, missing}};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count) four.value[i] = from[i];
  }
  return four;
}
__device__ inline bool is_aligned_16(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}

// Whether an address and the distance between rows (bytes) allow pieces of 16; for the host, which only looks at the
// numbers.
inline bool fits_16(const void* address, std::int64_t row_bytes) {
  return (reinterpret_cast<std::uintptr_t>(address) | static_cast<std::uintptr_t>(row_bytes)) % 16 == 0;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
