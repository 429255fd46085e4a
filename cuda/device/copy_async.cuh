// Copies from global to shared memory that go on while the thread works (cp.async, from sm_80 on).
#pragma once

#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

#ifdef FRSPEC_CUDA_EMULATED
// 16 bytes, both sides aligned to 16. The bytes are there only after copy_wait; for other threads after a barrier, too.
inline void copy_async_16(void* shared, const void* global) { emulation::current_block().copy_async(shared, global); }
// Ends a group of copies.
inline void copy_commit() { emulation::current_block().copy_commit(); }
// Waits for all of this thread's groups but the newest `pending`.
template <int pending>
void copy_wait() {
  emulation::current_block().copy_wait(pending);
}
#else
__device__ inline void copy_async_16(void* shared, const void* global) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(global) : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int pending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}
#endif

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
