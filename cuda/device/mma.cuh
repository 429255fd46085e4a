// Matrix products of a warp: D (16 x 8) += A (16 x 16) B (16 x 8), 16-bit operands, f32 sums (mma.m16n8k16, sm_80 on).
//
// Fragments, for lane = 4 g + t; each register holds two 16-bit numbers, the first in its low half:
//   a[0]: A[g][2t], A[g][2t+1]       a[1]: A[g+8][2t], ...   a[2]: A[g][2t+8], ...   a[3]: A[g+8][2t+8], ...
//   b[0]: B[2t][g], B[2t+1][g]       b[1]: B[2t+8][g], B[2t+9][g]
//   d[0], d[1]: D[g][2t], D[g][2t+1]                         d[2], d[3]: D[g+8][2t], D[g+8][2t+1]
// An element of D depends on its row of A and its column of B only, and on the order of the calls.
#pragma once

#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

#ifdef FRSPEC_CUDA_EMULATED
inline void mma_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulation::current_block().mma(d, a, b, emulation::Half::F16);
}
inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulation::current_block().mma(d, a, b, emulation::Half::BF16);
}
// D = A B.
inline void mma_f16_first(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  for (float& sum : d) sum = 0.0f;
  mma_f16(d, a, b);
}
#else
__device__ inline void mma_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_f16_first(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(0.0f));
}
#endif

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
