// The packed form of a weight: panels of 16 output rows whose bytes are interleaved by dwords, so that one 64-byte line
// holds the same piece of k for 16 rows. Lanes are output rows and k runs in one order: one layout for all instruction
// sets and for any number of activation rows.
//
// F32, F16, BF16: line after line. Quantized formats: groups of 256 elements of k (the last one may be shorter), each
// with three parts, each part starting at a line:
//
//   header   what the blocks hold beside their quants, 16 values (one per row) in a run:
//              Q8_0, Q4_0, Q5_0, IQ4_NL   f16 scale of block 0, 1, ...
//              Q4_1, Q5_1         f16 scale of block 0, 1, ..., then f16 minimum of block 0, 1, ...
//              MXFP4              u8 exponent of block 0, 1, ...
//              Q4_K, Q5_K         f16 scale, f16 minimum, u8 scales of blocks 0 to 7, u8 minima of blocks 0 to 7
//              Q2_K               f16 scale, f16 minimum, u8 scale and minimum (high half) of blocks 0 to 15
//              Q3_K, Q6_K         f16 scale, i8 scales of blocks 0 to 15
//              IQ4_XS             f16 scale, i8 scales of blocks 0 to 7
//              Coded              f32 scale, i8 scales of blocks 0 to 15
//   quants   the quants' dwords in file order; Q8_0 with its sign bits flipped: code + 128, unsigned
//   high     Q5_0, Q5_1   one line per block: bit s of byte i of a dword is the fifth bit of element 4 s + i
//            Q3_K, Q5_K, Q6_K   the high bits' dwords in file order
//            Coded        one line that begins with the 16 values for which codes stand, all rows' own
//
// Panels lie in pairs, whose groups alternate: group 0 of the one, group 0 of the other, group 1 of the one ... So two
// panels that are multiplied together are one stream of memory. Groups are 256 elements of unquantized formats, too. An
// odd last panel has its groups one after the other.
//
// Rows beyond the matrix are zero. Nothing is lost: unpack_row (packing.h) gives back the bytes of the row. The types
// of FRSPEC_CODED_TYPES have no panels of their own: rows are brought to their form before (panel_type in packing.h).
// Functions here are static: see kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"
#include "tensor/weight_types.h"

namespace frspec::cpu {

constexpr int kPanel = 16;      // output rows
constexpr int kPair = 2;        // panels whose groups alternate
constexpr int kGroup = 256;     // elements of k in a group
constexpr int kLine = 64;       // bytes: a dword of each row
constexpr int kBlockSteps = 8;  // dwords of k, once unpacked to bytes, in a block of 32

// How a quantized format is packed and what its codes are.
struct PanelFormat {
  int bits = 0;     // of the codes that are multiplied; 0: not quantized
  int block = 32;   // elements of a block of the file; 256: its scales are whole numbers times one for all
  int shared = 32;  // elements that share a scale
  int header = 0;   // bytes of the header for a block and row
  int quants = 4;   // bits of a code in the quants
  int high = 0;     // and in the high part
  bool minima = false;
  bool table = false;  // codes stand for 16 numbers
};

static constexpr PanelFormat panel_format(DType type) {
  switch (type) {
    case DType::Q8_0:
      return {.bits = 8, .header = 2, .quants = 8};
    case DType::Q4_0:
      return {.bits = 4, .header = 2};
    case DType::Q4_1:
      return {.bits = 4, .header = 4, .minima = true};
    case DType::Q5_0:
      return {.bits = 5, .header = 2, .high = 1};
    case DType::Q5_1:
      return {.bits = 5, .header = 4, .high = 1, .minima = true};
    case DType::Q2_K:
      return {.bits = 2, .block = 256, .shared = 16, .header = 4 + 16, .quants = 2, .minima = true};
    case DType::Q3_K:
      return {.bits = 3, .block = 256, .shared = 16, .header = 2 + 16, .quants = 2, .high = 1};
    case DType::Q4_K:
      return {.bits = 4, .block = 256, .header = 4 + 16, .minima = true};
    case DType::Q5_K:
      return {.bits = 5, .block = 256, .header = 4 + 16, .high = 1, .minima = true};
    case DType::Q6_K:
      return {.bits = 6, .block = 256, .shared = 16, .header = 2 + 16, .high = 2};
    case DType::IQ4_NL:
      return {.bits = 8, .header = 2, .table = true};
    case DType::IQ4_XS:
      return {.bits = 8, .block = 256, .header = 2 + 8, .table = true};
    case DType::MXFP4:
      return {.bits = 5, .header = 1, .table = true};
    case DType::Coded:
      return {.bits = 8, .block = 256, .shared = 16, .header = 4 + 16, .table = true};
    default:
      return {};
  }
}
#define FRSPEC_CHECK(name) static_assert(panel_format(DType::name).bits > 0);
FRSPEC_BLOCK_TYPES(FRSPEC_CHECK)
#undef FRSPEC_CHECK

struct GroupLayout {
  std::int64_t quants;  // offset of the part
  std::int64_t high;    // offset of the part
  std::int64_t bytes;   // of the whole group
};

// Of a quantized format, for a group with `blocks` blocks of 32 elements.
static constexpr GroupLayout group_layout(DType type, std::int64_t blocks) {
  const PanelFormat format = panel_format(type);
  std::int64_t header = kPanel * format.header * (format.block == kGroup ? 1 : blocks);
  header = (header + kLine - 1) / kLine * kLine;
  const std::int64_t bit = kPanel * 32 / 8 * blocks;  // bytes of one bit of every element
  const std::int64_t high = type == DType::Coded ? kLine : bit * format.high;
  return {header, header + bit * format.quants, header + bit * format.quants + high};
}

// Elements of k in a line of an unquantized format; 0 for a quantized one.
static constexpr std::int64_t elements_per_line(DType type) {
  return type == DType::F32 ? 1 : type == DType::F16 || type == DType::BF16 ? 2 : 0;
}

static constexpr std::int64_t group_count(std::int64_t cols) { return (cols + kGroup - 1) / kGroup; }

// Bytes of group `g` of a panel of `cols` elements of k; the last one may be shorter.
static constexpr std::int64_t group_bytes(DType type, std::int64_t cols, std::int64_t g) {
  const std::int64_t left = cols - g * kGroup, elements = left < kGroup ? left : kGroup;
  if (const std::int64_t per_line = elements_per_line(type); per_line > 0) {
    return (elements + per_line - 1) / per_line * kLine;
  }
  return group_layout(type, elements / 32).bytes;
}

// Bytes of a whole panel.
static constexpr std::int64_t panel_bytes(DType type, std::int64_t cols) {
  const std::int64_t last = group_count(cols) - 1;
  return last * group_bytes(type, kGroup, 0) + group_bytes(type, cols, last);
}

// Which panel of its pair; `whole` where the pair has two.
struct PanelPlace {
  bool whole = false;
  int which = 0;
};

static constexpr PanelPlace place_of(std::int64_t panel, std::int64_t panels) {
  return {panel / kPair * kPair + 1 < panels, static_cast<int>(panel % kPair)};
}

// Where group `g` of a panel begins, from the begin of its pair.
static constexpr std::int64_t group_offset(DType type, std::int64_t cols, PanelPlace place, std::int64_t g) {
  return g * (place.whole ? kPair : 1) * group_bytes(type, kGroup, 0) + place.which * group_bytes(type, cols, g);
}

}  // namespace frspec::cpu
