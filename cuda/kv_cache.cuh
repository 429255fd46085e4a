// How the CUDA backend lays out keys and values.
//
// Head by head; within a head, slot by slot, a head's elements in a row, so that a page of a head is one contiguous
// run. F16: rows of kv_pitch() halves, zeros behind head_dim. Q8_0: rows of head_dim codes; behind the codes of all
// heads stand their scales, (heads, slots, head_dim / 32) halves. Every row of codes begins at a multiple of 16 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

inline constexpr int kKvBlock = 32;  // elements that share a scale
inline constexpr int kUnit = 64;     // keys that meet a query at once, at absolute logical positions (attention.cu)
inline constexpr int kMostHeadDim = 256;

// Elements of a stored row.
__host__ __device__ constexpr int kv_pitch(int head_dim) { return (head_dim + 7) / 8 * 8; }
// A unit is a page, so the scales of a unit begin at a multiple of 16 bytes, too.
static_assert(kUnit == kPageSlots);
__device__ inline std::int64_t slot_of(const std::int32_t* pages, int slot) {
  return std::int64_t{pages[slot / kPageSlots]} * kPageSlots + slot % kPageSlots;
}

// The keys or the values of one head.
struct KvHead {
  std::byte* codes = nullptr;       // (slots, row_bytes)
  std::uint16_t* scales = nullptr;  // (slots, blocks); null: f16
  int row_bytes = 0;
  int blocks = 0;
};

__device__ inline KvHead kv_head(void* memory, const KvShape& shape, int head) {
  const bool halves = shape.type == KvType::F16;
  const std::int64_t slots = shape.capacity;
  const int row_bytes = halves ? 2 * kv_pitch(shape.head_dim) : shape.head_dim;
  auto* bytes = static_cast<std::byte*>(memory);
  KvHead found{bytes + slots * row_bytes * head, nullptr, row_bytes, 0};
  if (!halves) {
    found.blocks = shape.head_dim / kKvBlock;
    found.scales =
        reinterpret_cast<std::uint16_t*>(bytes + slots * row_bytes * shape.heads) + slots * found.blocks * head;
  }
  return found;
}

// Rows in device code.
__device__ inline int depth_of(const Rows& rows, int r) { return rows.depth != nullptr ? rows.depth[r] : r; }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
