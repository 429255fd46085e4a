// Operations of a whole block: its barrier, its shared memory, reductions; and what blocks share.
#pragma once

#include "cuda/device/platform.cuh"
#include "cuda/device/warp.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

#ifdef FRSPEC_CUDA_EMULATED
inline void block_sync() { emulation::current_block().block_sync(); }
// Whether any thread of the block says so: a barrier, too.
inline bool block_any(bool predicate) { return emulation::current_block().block_any(predicate); }
#else
__device__ inline void block_sync() { __syncthreads(); }
__device__ inline bool block_any(bool predicate) { return __syncthreads_or(predicate) != 0; }
#endif

// Hands out the block's dynamic shared memory. Every thread of a block takes the same pieces in the same order; the
// launch states shared_bytes() of all of them. What is in it at first is undefined.
class SharedMemory {
 public:
  // Aligned to 16 bytes.
  template <class T>
  __device__ T* take(int count) {
    const int bytes = (count * static_cast<int>(sizeof(T)) + 15) / 16 * 16;
#ifdef FRSPEC_CUDA_EMULATED
    void* memory = emulation::current_block().shared(used_, bytes);
#else
    extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
    void* memory = dynamic_shared_memory + used_;
#endif
    used_ += bytes;
    return static_cast<T*>(memory);
  }

 private:
  int used_ = 0;
};

// What SharedMemory::take<T>(count) uses.
template <class T>
__host__ __device__ constexpr std::size_t shared_bytes(std::int64_t count) {
  return (static_cast<std::size_t>(count) * sizeof(T) + 15) / 16 * 16;
}

// Combines the values of all threads, always in the same order; every thread gets the result. `scratch`: shared,
// one T for each warp. It is a barrier.
template <class T, class Combine>
__device__ inline T block_reduce(T value, T* scratch, Combine&& combine) {
  value = warp_reduce(value, combine);
  block_sync();  // an earlier reduction may still be read
  if (lane() == 0) scratch[warp()] = value;
  block_sync();
  T result = scratch[0];
  for (int w = 1; w < warps(); ++w) result = combine(result, scratch[w]);
  return result;
}
template <class T>
__device__ inline T block_sum(T value, T* scratch) {
  return block_reduce(value, scratch, [](T a, T b) { return a + b; });
}
template <class T>
__device__ inline T block_max(T value, T* scratch) {
  return block_reduce(value, scratch, [](T a, T b) { return a > b ? a : b; });
}

// Adds to a counter in global or shared memory; gives what was there before.
#ifdef FRSPEC_CUDA_EMULATED
template <class T>
T atomic_add(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
template <class T>
T atomic_exchange(T* at, T value) {
  const T before = *at;
  *at = value;
  return before;
}
// What this thread has written is seen by every other block before anything that it writes afterwards.
inline void device_fence() {}
#else
template <class T>
__device__ inline T atomic_add(T* at, T value) {
  return atomicAdd(at, value);
}
template <class T>
__device__ inline T atomic_exchange(T* at, T value) {
  return atomicExch(at, value);
}
__device__ inline void device_fence() { __threadfence(); }
#endif

// What a counter that others are adding to has come to.
template <class T>
__device__ inline T peek(const T* at) {
  return *static_cast<const volatile T*>(at);
}

// True in every thread of exactly one of `count` blocks, the one that arrives last; it sees what the others have
// written. `arrived` is 0 before and after. `flag`: shared, one int.
__device__ inline bool is_last_block(std::int32_t* arrived, int count, int* flag) {
  device_fence();
  block_sync();
  if (thread() == 0) {
    *flag = atomic_add(arrived, 1) == count - 1;
    if (*flag != 0) *arrived = 0;
  }
  block_sync();
  const bool last = *flag != 0;
  if (last) device_fence();
  return last;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
