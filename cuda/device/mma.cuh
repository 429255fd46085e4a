// Matrix products of a warp: D (16 x 8) += A (16 x 16) B (16 x 8), 16-bit operands, f32 sums (mma.m16n8k16, sm_80 on).
//
// Fragments, for lane = 4 g + t; each register holds two 16-bit numbers, the first in its low half:
//   a[0]: A[g][2t], A[g][2t+1]       a[1]: A[g+8][2t], ...   a[2]: A[g][2t+8], ...   a[3]: A[g+8][2t+8], ...
//   b[0]: B[2t][g], B[2t+1][g]       b[1]: B[2t+8][g], B[2t+9][g]
//   d[0], d[1]: D[g][2t], D[g][2t+1]                         d[2], d[3]: D[g+8][2t], D[g+8][2t+1]
// An element of D depends on its row of A and its column of B only, and on the order of the calls.
//
// Fragments come from shared memory by load_tile (ldmatrix): a tile of 16 x 16 numbers, row i at tile + i * stride,
// rows aligned to 16 bytes. They come without bank conflicts where the stride is an odd number of 16 bytes.
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
// Of A: the fragment. Of the transpose of B (row n holds the k of column n): b of columns 0 to 7 is {r[0], r[2]}, of
// columns 8 to 15 {r[1], r[3]}. Every lane reads only what it gets, so the lanes need not meet.
inline void load_tile(std::uint32_t (&r)[4], const std::uint16_t* tile, int stride) {
  emulation::current_block().expect_aligned(tile + lane() % 16 * stride + lane() / 16 * 8, 16);
  const std::uint16_t* corner = tile + lane() / 4 * stride + lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    const std::uint16_t* at = corner + i % 2 * 8 * stride + i / 2 * 8;
    r[i] = static_cast<std::uint32_t>(at[0]) | (static_cast<std::uint32_t>(at[1]) << 16);
  }
}
// Of B (row k holds all columns): b of columns 0 to 7 is {r[0], r[1]}, of columns 8 to 15 {r[2], r[3]}.
inline void load_tile_transposed(std::uint32_t (&r)[4], const std::uint16_t* tile, int stride) {
  emulation::current_block().expect_aligned(tile + lane() % 16 * stride + lane() / 16 * 8, 16);
  const std::uint16_t* corner = tile + lane() % 4 * 2 * stride + lane() / 4;
  for (int i = 0; i < 4; ++i) {
    const std::uint16_t* at = corner + i % 2 * 8 * stride + i / 2 * 8;
    r[i] = static_cast<std::uint32_t>(at[0]) | (static_cast<std::uint32_t>(at[stride]) << 16);
  }
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
__device__ inline unsigned tile_row_of_lane(const std::uint16_t* tile, int stride) {
  return static_cast<unsigned>(__cvta_generic_to_shared(tile + lane() % 16 * stride + lane() / 16 * 8));
}
__device__ inline void load_tile(std::uint32_t (&r)[4], const std::uint16_t* tile, int stride) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(tile_row_of_lane(tile, stride))
               : "memory");
}
__device__ inline void load_tile_transposed(std::uint32_t (&r)[4], const std::uint16_t* tile, int stride) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(tile_row_of_lane(tile, stride))
               : "memory");
}
__device__ inline void mma_f16_first(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(0.0f));
}
#endif

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
