// What a loop of commands on the device needs beside its commands (CommandList::run_loop).
#pragma once

#include "cuda/device/platform.cuh"

#ifdef FRSPEC_CUDA_EMULATED
#include <chrono>
#endif

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// Of a loop; a runtime gives it to the last of the loop's commands.
using LoopHandle = unsigned long long;

#ifdef FRSPEC_CUDA_EMULATED
// Whether there is another turn behind this one. One thread of the loop's last command says so.
inline void set_another_turn(LoopHandle loop, bool another) { *reinterpret_cast<bool*>(loop) = another; }
inline std::uint64_t nanoseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}
// Whoever on the host sees what is written behind it sees what was written before it, too.
inline void system_fence() {}
#else
__device__ inline void set_another_turn([[maybe_unused]] LoopHandle loop, [[maybe_unused]] bool another) {
#if CUDART_VERSION >= 12040  // an older runtime makes no loops
  cudaGraphSetConditional(loop, another ? 1u : 0u);
#endif
}
__device__ inline std::uint64_t nanoseconds() {
  std::uint64_t time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}
__device__ inline void system_fence() { __threadfence_system(); }
#endif

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
