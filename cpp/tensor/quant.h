// Block formats of quantized weights, as GGUF stores them. Half-precision numbers are kept as their bits.
#pragma once

#include <cstdint>

namespace frspec {

constexpr int kQuantBlock = 32;   // elements per block of Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4
constexpr int kSuperBlock = 256;  // elements per block of K-quants, IQ4_XS and all that are brought to Coded

// w[i] = scale * quants[i]
struct BlockQ8_0 {
  static constexpr int kElements = kQuantBlock;
  std::uint16_t scale;
  std::int8_t quants[kQuantBlock];
};
static_assert(sizeof(BlockQ8_0) == 34);

// w[i] = scale * (q[i] - 8); byte i holds elements i (low half) and i + 16 (high half)
struct BlockQ4_0 {
  static constexpr int kElements = kQuantBlock;
  std::uint16_t scale;
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ4_0) == 18);

// w[i] = scale * (q[i] - 1); two bits each, the lowest first: byte i holds elements 4 i to 4 i + 3
struct BlockQ2_0 {
  static constexpr int kElements = 2 * kQuantBlock;
  std::uint16_t scale;
  std::uint8_t quants[kElements / 4];
};
static_assert(sizeof(BlockQ2_0) == 18);

// w[i] = scale where bit i is set, -scale where it is not; the lowest bit of a byte first
struct BlockQ1_0 {
  static constexpr int kElements = 4 * kQuantBlock;
  std::uint16_t scale;
  std::uint8_t quants[kElements / 8];
};
static_assert(sizeof(BlockQ1_0) == 18);

// w[i] = scale * q[i] + minimum
struct BlockQ4_1 {
  static constexpr int kElements = kQuantBlock;
  std::uint16_t scale;
  std::uint16_t minimum;
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ4_1) == 20);

// w[i] = scale * (q[i] - 16); bit i of `high` is the fifth bit of element i
struct BlockQ5_0 {
  static constexpr int kElements = kQuantBlock;
  std::uint16_t scale;
  std::uint8_t high[4];
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ5_0) == 22);

// w[i] = scale * q[i] + minimum
struct BlockQ5_1 {
  static constexpr int kElements = kQuantBlock;
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
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint16_t minimum;
  std::uint8_t packed[12];
  std::uint8_t quants[kSuperBlock / 2];
};
static_assert(sizeof(BlockQ4_K) == 144);

// As Q4_K; bit b of high[i] is the fifth bit of element i of block b.
struct BlockQ5_K {
  static constexpr int kElements = kSuperBlock;
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
  static constexpr int kElements = kSuperBlock;
  std::uint8_t low[kSuperBlock / 2];
  std::uint8_t high[kSuperBlock / 4];
  std::int8_t scales[kSuperBlock / 16];
  std::uint16_t scale;
};
static_assert(sizeof(BlockQ6_K) == 210);

// Sixteen blocks of 16: w = scale * (scales[b] & 15) * q - minimum * (scales[b] >> 4). Byte i of the 128 elements from
// 128 c on, quants[32 c + i], holds elements i, 32 + i, 64 + i and 96 + i, two bits each, the lowest first.
struct BlockQ2_K {
  static constexpr int kElements = kSuperBlock;
  std::uint8_t scales[kSuperBlock / 16];
  std::uint8_t quants[kSuperBlock / 4];
  std::uint16_t scale;
  std::uint16_t minimum;
};
static_assert(sizeof(BlockQ2_K) == 84);

// Sixteen blocks of 16: w = scale * scales[b] * (q - 4), with the sixteen scales packed into 12 bytes (q3_scale). The
// two low bits of q as in Q2_K; bit b of high[i] is the third one of element i of block b of 32.
struct BlockQ3_K {
  static constexpr int kElements = kSuperBlock;
  std::uint8_t high[kSuperBlock / 8];
  std::uint8_t quants[kSuperBlock / 4];
  std::uint8_t packed[12];
  std::uint16_t scale;
};
static_assert(sizeof(BlockQ3_K) == 110);

// w[i] = scale * kIq4Values[q[i]], the nibbles of a block as in Q4_0.
struct BlockIQ4_NL {
  static constexpr int kElements = kQuantBlock;
  std::uint16_t scale;
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockIQ4_NL) == 18);
inline constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

// Eight blocks of IQ4_NL: w = scale * (s - 32) * kIq4Values[q]; iq4_scale gives s - 32.
struct BlockIQ4_XS {
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint16_t scales_high;                  // two bits each
  std::uint8_t scales_low[kSuperBlock / 64];  // four
  std::uint8_t quants[kSuperBlock / 2];       // 16 bytes for each block
};
static_assert(sizeof(BlockIQ4_XS) == 136);

// w[i] = 2^(exponent - 128) * kMxfp4Values[q[i]]: these are twice the values of e2m1. An exponent of 255 says NaN.
struct BlockMXFP4 {
  static constexpr int kElements = kQuantBlock;
  std::uint8_t exponent;
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockMXFP4) == 17);
inline constexpr std::int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// The types of codebooks: what their bits say is in coded.cpp.
struct BlockIQ3_S {
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint8_t quants[kSuperBlock / 4];
  std::uint8_t high[kSuperBlock / 32];
  std::uint8_t signs[kSuperBlock / 8];
  std::uint8_t scales[kSuperBlock / 64];
};
struct BlockIQ3_XXS {
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint8_t quants[kSuperBlock / 4];
  std::uint8_t signs[kSuperBlock / 8];  // eight words of 32 bits: four times 7 bits of signs, 4 bits of scale
};
struct BlockIQ2_S {
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint8_t quants[kSuperBlock / 8];
  std::uint8_t signs[kSuperBlock / 8];
  std::uint8_t high[kSuperBlock / 32];
  std::uint8_t scales[kSuperBlock / 32];
};
struct BlockIQ2_XS {
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint16_t quants[kSuperBlock / 8];  // 9 bits of the codebook's entry, 7 bits of signs
  std::uint8_t scales[kSuperBlock / 32];
};
struct BlockIQ2_XXS {
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint8_t quants[kSuperBlock / 4];  // for each 32 elements four entries, then a word as in IQ3_XXS
};
struct BlockIQ1_M {
  static constexpr int kElements = kSuperBlock;
  std::uint8_t quants[kSuperBlock / 8];
  std::uint8_t high[kSuperBlock / 16];
  std::uint16_t scales[kSuperBlock / 64];  // sixteen times 3 bits, and on top of each the next 4 bits of an f16
};
struct BlockIQ1_S {
  static constexpr int kElements = kSuperBlock;
  std::uint16_t scale;
  std::uint8_t quants[kSuperBlock / 8];
  std::uint16_t high[kSuperBlock / 32];
};
// Digits of three: two bits each, or five of them in a byte.
struct BlockTQ2_0 {
  static constexpr int kElements = kSuperBlock;
  std::uint8_t quants[kSuperBlock / 4];
  std::uint16_t scale;
};
struct BlockTQ1_0 {
  static constexpr int kElements = kSuperBlock;
  std::uint8_t quants[48];
  std::uint8_t high[4];
  std::uint16_t scale;
};

// The 6-bit numbers of Q4_K and Q5_K: the first four of each kind use the low bits of bytes 0 to 7; the last four are
// spread over bytes 8 to 11 (low four bits) and the top of bytes 0 to 7 (high two).
constexpr std::uint8_t packed_scale(const std::uint8_t* packed, int b) {
  return b < 4 ? packed[b] & 63 : static_cast<std::uint8_t>((packed[b + 4] & 0xF) | ((packed[b - 4] >> 6) << 4));
}
constexpr std::uint8_t packed_minimum(const std::uint8_t* packed, int b) {
  return b < 4 ? packed[b + 4] & 63 : static_cast<std::uint8_t>((packed[b + 4] >> 4) | ((packed[b] >> 6) << 4));
}

// Scales of Q3_K: b is one of 16.
constexpr int q3_scale(const std::uint8_t* packed, int b) {
  return ((packed[b % 8] >> (4 * (b / 8)) & 15) | (packed[8 + b % 4] >> (2 * (b / 4)) & 3) << 4) - 32;
}
// Of IQ4_XS: b is one of 8.
constexpr int iq4_scale(const BlockIQ4_XS& block, int b) {
  return ((block.scales_low[b / 2] >> (4 * (b % 2)) & 15) | (block.scales_high >> (2 * b) & 3) << 4) - 32;
}
// The bits of 2^(e - 128) as f32; below 2 it is no normal number.
constexpr std::uint32_t mxfp4_scale_bits(std::uint32_t e) { return e < 2 ? 0x00200000u << e : (e - 1) << 23; }

}  // namespace frspec
