// The packed form of a weight: panels of 16 output rows whose bytes are interleaved by dwords, so that one 64-byte line
// holds the same piece of k for 16 rows. Lanes are output rows and k runs in one order: one layout for all instruction
// sets and for any number of activation rows.
//
// F32, F16, BF16: line after line. Quantized formats: groups of 256 elements of k (the last one may be shorter), each
// with three parts, each part starting at a line:
//
//   header   what the blocks hold beside their quants, 16 values (one per row) in a run:
//              Q8_0, Q4_0, Q5_0   f16 scale of block 0, 1, ...
//              Q4_1, Q5_1         f16 scale of block 0, 1, ..., then f16 minimum of block 0, 1, ...
//              Q4_K, Q5_K         f16 scale, f16 minimum, u8 scales of blocks 0 to 7, u8 minima of blocks 0 to 7
//              Q6_K               f16 scale, i8 scales of blocks 0 to 15
//   quants   the quants' dwords in file order; Q8_0 with its sign bits flipped: code + 128, unsigned
//   high     Q5_0, Q5_1   one line per block: bit s of byte i of a dword is the fifth bit of element 4 s + i
//            Q5_K, Q6_K   the high bits' dwords in file order
//
// Rows beyond the matrix are zero. Nothing is lost: unpack_row (packing.h) gives back the bytes of the file.
// Functions here are static: see kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace frspec::cpu {

constexpr int kPanel = 16;      // output rows
constexpr int kGroup = 256;     // elements of k in a group
constexpr int kLine = 64;       // bytes: a dword of each row
constexpr int kBlockSteps = 8;  // dwords of k, once unpacked to bytes, in a block of 32

struct GroupLayout {
  std::int64_t quants;  // offset of the part
  std::int64_t high;    // offset of the part
  std::int64_t bytes;   // of the whole group
};

// Of a quantized format, for a group with `blocks` blocks of 32 elements.
static constexpr GroupLayout group_layout(DType type, std::int64_t blocks) {
  constexpr std::int64_t kHalves = kPanel * 2;  // bytes of 16 f16 values
  std::int64_t header = 0, quants = 0, high = 0;
  switch (type) {
    case DType::Q8_0:
      header = kHalves * blocks;
      quants = 8 * kLine * blocks;
      break;
    case DType::Q4_0:
      header = kHalves * blocks;
      quants = 4 * kLine * blocks;
      break;
    case DType::Q4_1:
      header = 2 * kHalves * blocks;
      quants = 4 * kLine * blocks;
      break;
    case DType::Q5_0:
      header = kHalves * blocks;
      quants = 4 * kLine * blocks;
      high = kLine * blocks;
      break;
    case DType::Q5_1:
      header = 2 * kHalves * blocks;
      quants = 4 * kLine * blocks;
      high = kLine * blocks;
      break;
    case DType::Q4_K:
      header = 2 * kHalves + 2 * 8 * kPanel;
      quants = 32 * kLine;
      break;
    case DType::Q5_K:
      header = 2 * kHalves + 2 * 8 * kPanel;
      quants = 32 * kLine;
      high = 8 * kLine;
      break;
    case DType::Q6_K:
      header = kHalves + 16 * kPanel;
      quants = 32 * kLine;
      high = 16 * kLine;
      break;
    default:
      break;
  }
  header = (header + kLine - 1) / kLine * kLine;
  return {header, header + quants, header + quants + high};
}

// Elements of k in a line of an unquantized format; 0 for a quantized one.
static constexpr std::int64_t elements_per_line(DType type) {
  return type == DType::F32 ? 1 : type == DType::F16 || type == DType::BF16 ? 2 : 0;
}

// Bytes of a whole panel of `cols` elements of k.
static constexpr std::int64_t panel_bytes(DType type, std::int64_t cols) {
  if (const std::int64_t per_line = elements_per_line(type); per_line > 0) {
    return (cols + per_line - 1) / per_line * kLine;
  }
  const std::int64_t rest = cols % kGroup / 32;
  return cols / kGroup * group_layout(type, kGroup / 32).bytes + (rest > 0 ? group_layout(type, rest).bytes : 0);
}

}  // namespace frspec::cpu
