// What the formats of packed weights have in common.
//
// A packed weight is made of tiles: 16 rows by kTileCols columns, first the quants, then what scales them. The tiles of
// 16 rows (a strip) follow each other along the columns. Inside a tile, quants lie in the order in which the lanes of a
// warp need them as fragments of mma's operand A. A fragment covers 16 columns; which of these columns mma calls k is
// free, as long as both operands agree: lane 4 g + t holds, of rows g and g + 8, columns 4 t to 4 t + 3 (pairs j = 0
// and 1, elements e = 0 and 1). So the eight columns of a row that a lane has of a block of 32 are two runs of four.
#pragma once

#include <cstring>

#include "cuda/device/memory.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/numbers.cuh"
#include "tensor/dtype.h"
#include "tensor/quant.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

inline constexpr int kStrip = 16;  // rows of a tile
inline constexpr int kChunk = 64;  // columns whose quants a lane reads together: two blocks of 32

// How the product of integers becomes the product of numbers.
enum class Scaling : std::uint8_t {
  None,      // the fragments are the weights
  PerTile,   // f32 scale and minimum for all columns of a tile, whose fragments are scaled integers already
  PerBlock,  // an f32 scale for 32 columns
  PerStep,   // for 16 columns
};

// Where column `col` of row `row` of a tile is.
struct Place {
  constexpr Place(int row, int col)
      : half(row / 8),
        lane(4 * (row % 8) + col / 4 % 4),
        chunk(col / kChunk),
        block(col / 32 % 2),
        pair(2 * (col / 16 % 2) + col / 2 % 2),
        element(col % 2) {}
  int half;     // of the 16 rows
  int lane;     //
  int chunk;    //
  int block;    // of the chunk
  int pair;     // of the four in a block: 2 * (which 16 columns) + j
  int element;  // of the pair
};
// The column of a chunk that is element e of pair i of block b for lanes with this t.
constexpr int chunk_column(int b, int i, int e, int t) { return 32 * b + 16 * (i / 2) + 4 * t + 2 * (i % 2) + e; }

// The 16 quants that a lane has of one row of a chunk, in the order (block, pair, element).
using ChunkQuants = std::uint16_t[16];

// A number of 16 bits in both halves of a word.
constexpr std::uint32_t twice(std::uint32_t bits) { return bits * 0x10001u; }
inline constexpr std::uint32_t k1024 = twice(0x6400);  // as f16: 1024 + q has the bits 0x6400 | q

// By a number of bits that is known when compiling; to the left where it is negative.
__device__ inline std::uint32_t shift_right(std::uint32_t word, int bits) {
  return bits >= 0 ? word >> bits : word << -bits;
}

// The pairs of 4-bit quants in a word: pair i has its first quant in bits 4 i, its second 16 bits further up. As f16:
// 1024 + q for even pairs, 1024 + 16 q for odd ones. `extra` (for each pair, in place) are the higher bits of q.
__device__ inline std::uint32_t nibble_pair(std::uint32_t word, int i) {
  const std::uint32_t shifted = word >> (8 * (i / 2));
  return and_or(shifted, i % 2 == 0 ? twice(0x000F) : twice(0x00F0), k1024);
}
constexpr std::uint32_t nibbles_word(const ChunkQuants& q, int b) {
  std::uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    for (int e = 0; e < 2; ++e) word |= static_cast<std::uint32_t>(q[8 * b + 2 * i + e] & 15) << (4 * i + 16 * e);
  }
  return word;
}
// 16 bytes of a chunk's nibbles for a lane: (block, half), one word each.
__device__ inline std::uint32_t* nibbles_at(std::byte* tile, const Place& at) {
  return reinterpret_cast<std::uint32_t*>(tile) + 4 * (32 * at.chunk + at.lane) + 2 * at.block + at.half;
}
__device__ inline const std::uint32_t* nibbles_at(const std::byte* tile, const Place& at) {
  return nibbles_at(const_cast<std::byte*>(tile), at);
}
__device__ inline void store_nibbles(std::byte* tile, int row, int chunk, int t, const ChunkQuants& q) {
  for (int b = 0; b < 2; ++b) *nibbles_at(tile, Place(row, kChunk * chunk + 32 * b + 4 * t)) = nibbles_word(q, b);
}
__device__ inline int stored_nibble(const std::byte* tile, const Place& at) {
  return static_cast<int>(*nibbles_at(tile, at) >> (4 * at.pair + 16 * at.element)) & 15;
}

// Bits [shift, shift + 2) of a row's quants of a chunk, one word for a lane: those of pair i of block b are bits
// 8 b + 2 i, 16 further up for the second element.
constexpr std::uint32_t two_bits_word(const ChunkQuants& q, int shift) {
  std::uint32_t word = 0;
  for (int at = 0; at < 16; ++at) {
    word |= static_cast<std::uint32_t>(q[at] >> shift & 3) << (2 * (at / 2) + 16 * (at % 2));
  }
  return word;
}
__device__ inline int stored_two_bits(std::uint32_t word, const Place& at) {
  return static_cast<int>(word >> (8 * at.block + 2 * at.pair + 16 * at.element)) & 3;
}

// Sixteen numbers from -128 to 127 for which nibbles stand, as bytes, each 128 more.
struct ValueTable {
  Words4 words;

  static constexpr ValueTable of(const std::int8_t (&values)[16]) {
    ValueTable table = {};
    for (int i = 0; i < 16; ++i) {
      table.words.word[i / 4] |= static_cast<std::uint32_t>(values[i] + 128) << (8 * (i % 4));
    }
    return table;
  }
  __device__ int value(int q) const { return static_cast<int>(words.word[q / 4] >> (8 * (q % 4)) & 0xFF) - 128; }
  // Four bytes, by the four low nibbles of a word.
  __device__ std::uint32_t four(std::uint32_t nibbles) const {
    const std::uint32_t within = nibbles & 0x7777;
    return permute(permute(words.word[0], words.word[1], within), permute(words.word[2], words.word[3], within),
                   0x3210 | (nibbles >> 1 & 0x4444));
  }
  // Pair i of a word of nibbles as f16.
  __device__ std::uint32_t pair(std::uint32_t nibbles, int i) const {
    const std::uint32_t both =
        permute(four(nibbles), four(nibbles >> 16), static_cast<std::uint32_t>(i | (4 + i) << 8));
    return half2_sub(and_or(both, twice(0x00FF), k1024), twice(0x6480));  // 1024 + 128
  }
};

// The fifth bits of a chunk, one word for a lane: that of pair i of block b of the row in half h is bit 8 h + 4 b + i
// for the first element, 16 bits further up for the second. So a row's bits are two bytes.
__device__ inline std::uint32_t fifth_bits(std::uint32_t word, int h, int b, int i) {
  const int from = 8 * h + 4 * b + i;
  return i % 2 == 0 ? shift_right(word, from - 4) & twice(0x0010) : shift_right(word, from - 8) & twice(0x0100);
}
__device__ inline void store_fifth_bits(std::byte* word, int h, const ChunkQuants& q) {
  for (int e = 0; e < 2; ++e) {
    unsigned bits = 0;
    for (int at = 0; at < 8; ++at) bits |= (q[2 * at + e] >> 4 & 1u) << at;
    word[2 * e + h] = static_cast<std::byte>(bits);
  }
}
__device__ inline int stored_fifth_bit(const std::byte* word, const Place& at) {
  const auto bits = static_cast<int>(word[2 * at.element + at.half]);
  return (bits >> (4 * at.block + at.pair) & 1) << 4;
}

template <class T>
__device__ inline T read_as(const std::byte* from) {
  return *reinterpret_cast<const T*>(from);
}
template <class T>
__device__ inline void write_as(std::byte* to, T value) {
  *reinterpret_cast<T*>(to) = value;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
