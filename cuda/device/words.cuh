// Sixteen bytes at once: the widest access to memory that a thread has. Addresses are multiples of 16 (of 8, for two
// floats).
#pragma once

#include <cstring>

#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct alignas(16) Words4 {
  std::uint32_t at[4];
};
struct alignas(16) Floats4 {
  float at[4];
};
struct alignas(8) Floats2 {
  float at[2];
};

#ifdef FRSPEC_CUDA_EMULATED
template <class T>
T load_16(const void* from) {
  static_assert(sizeof(T) == 16);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
void store_16(void* to, const T& value) {
  static_assert(sizeof(T) == 16);
  std::memcpy(to, &value, sizeof value);
}
inline void store_8(void* to, const Floats2& value) { std::memcpy(to, &value, sizeof value); }
#else
__device__ inline void store_8(void* to, const Floats2& value) { *static_cast<Floats2*>(to) = value; }
template <class T>
__device__ inline T load_16(const void* from) {
  static_assert(sizeof(T) == 16);
  return *static_cast<const T*>(from);
}
template <class T>
__device__ inline void store_16(void* to, const T& value) {
  static_assert(sizeof(T) == 16);
  *static_cast<T*>(to) = value;
}
#endif

// Whether an address and the distance between rows (bytes) allow it; for the host, which only looks at the numbers.
inline bool fits_16(const void* address, std::int64_t row_bytes) {
  return (reinterpret_cast<std::uintptr_t>(address) | static_cast<std::uintptr_t>(row_bytes)) % 16 == 0;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
