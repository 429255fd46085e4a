// Block formats of quantized weights, as GGUF stores them. Half-precision numbers are kept as their bits.
#pragma once

#include <cstdint>

namespace frspec {

constexpr int kQuantBlock = 32;   // elements per block of Q8_0, Q4_0, Q4_1, Q5_0, Q5_1
constexpr int kSuperBlock = 256;  // elements per block of the K-quants

// w[i] = scale * quants[i]
struct BlockQ8_0 {
  std::uint16_t scale;
  std::int8_t quants[kQuantBlock];
};
static_assert(sizeof(BlockQ8_0) == 34);

// w[i] = scale * (q[i] - 8); byte i holds elements i (low half) and i + 16 (high half)
struct BlockQ4_0 {
  std::uint16_t scale;
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ4_0) == 18);

// w[i] = scale * q[i] + minimum
struct BlockQ4_1 {
  std::uint16_t scale;
  std::uint16_t minimum;
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ4_1) == 20);

// w[i] = scale * (q[i] - 16); bit i of `high` is the fifth bit of element i
struct BlockQ5_0 {
  std::uint16_t scale;
  std::uint8_t high[4];
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ5_0) == 22);

// w[i] = scale * q[i] + minimum
struct BlockQ5_1 {
  std::uint16_t scale;
  std::uint16_t minimum;
  std::uint8_t high[4];
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ5_1) == 24);

// Eight blocks of 32: w = scale * scales[b] * q - minimum * minima[b], where the eight 6-bit pairs (scales[b],
// minima[b]) are packed into 12 bytes (packed_scale, packed_minimum). Byte i of the 64 elements from 64 c on, that is
// quants[32 c + i], holds elements i (low half) and 32 + i (high half).
struct BlockQ4_K {
  std::uint16_t scale;
  std::uint16_t minimum;
  std::uint8_t packed[12];
  std::uint8_t quants[kSuperBlock / 2];
};
static_assert(sizeof(BlockQ4_K) == 144);

// As Q4_K; bit b of high[i] is the fifth bit of element i of block b.
struct BlockQ5_K {
  std::uint16_t scale;
  std::uint16_t minimum;
  std::uint8_t packed[12];
  std::uint8_t high[kSuperBlock / 8];
  std::uint8_t quants[kSuperBlock / 2];
};
static_assert(sizeof(BlockQ5_K) == 176);

// Sixteen blocks of 16: w = scale * scales[b] * (q - 32). Of the 128 elements from 128 c on, byte i < 32 of `low` (from
// 64 c) holds the low half of elements i and 64 + i, byte 32 + i that of elements 32 + i and 96 + i; byte i of `high`
// (from 32 c) holds the two high bits of elements i, 32 + i, 64 + i and 96 + i.
struct BlockQ6_K {
  std::uint8_t low[kSuperBlock / 2];
  std::uint8_t high[kSuperBlock / 4];
  std::int8_t scales[kSuperBlock / 16];
  std::uint16_t scale;
};
static_assert(sizeof(BlockQ6_K) == 210);

// The 6-bit numbers of Q4_K and Q5_K: the first four of each kind use the low bits of bytes 0 to 7; the last four are
// spread over bytes 8 to 11 (low four bits) and the top of bytes 0 to 7 (high two).
constexpr std::uint8_t packed_scale(const std::uint8_t* packed, int b) {
  return b < 4 ? packed[b] & 63 : static_cast<std::uint8_t>((packed[b + 4] & 0xF) | ((packed[b - 4] >> 6) << 4));
}
constexpr std::uint8_t packed_minimum(const std::uint8_t* packed, int b) {
  return b < 4 ? packed[b + 4] & 63 : static_cast<std::uint8_t>((packed[b + 4] >> 4) | ((packed[b] >> 6) << 4));
}

}  // namespace frspec
