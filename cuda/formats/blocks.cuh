// Packed Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL and MXFP4: blocks of 32 columns with an f16 scale (MXFP4: an exponent),
// and a minimum for some. Quants, or what they stand for, are exact in f16; the sum over a block is scaled in f32.
//
// Tile of 16 x 64: quants (for each lane: 2 x 16 bytes of 8-bit quants, or 16 bytes of nibbles and a word of fifth
// bits), then for each row the scales of its two blocks, then the same of the minima.
#pragma once

#include "cuda/formats/pieces.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// `kOffset`: what is subtracted from the quants as they are stored, which are never negative.
template <DType kDType, class GgufBlock, int kBits, int kOffset, bool kHasMinimum>
struct BlockFormat {
  using Block = GgufBlock;
  static constexpr DType kType = kDType;
  static constexpr Scaling kScaling = Scaling::PerBlock;
  static constexpr bool kMinima = kHasMinimum;
  static constexpr bool kExponents = kDType == DType::MXFP4;
  static constexpr bool kTable = kExponents || kDType == DType::IQ4_NL;
  static constexpr bool kBf16 = false;
  static constexpr int kTileCols = kChunk;
  static constexpr int kQuantBytes = kStrip * kTileCols / 8 * (kBits == 8 ? 8 : 4);
  static constexpr int kFifthBytes = kBits == 5 ? kStrip * kTileCols / 8 : 0;
  static constexpr int kScaleBytes = kStrip * 2 * 2;
  static constexpr int kScalesAt = kQuantBytes + kFifthBytes;
  static constexpr int kTileBytes = kScalesAt + kScaleBytes * (kMinima ? 2 : 1);
  static constexpr int kStageTiles = kBits == 8 ? 2 : 4;
  static_assert(kTileBytes % 16 == 0);

  // --- The file's form ---
  __device__ static int quant(const std::byte* row, std::int64_t col) {
    const auto& block = reinterpret_cast<const Block*>(row)[col / kQuantBlock];
    const int i = static_cast<int>(col % kQuantBlock);
    if constexpr (kBits == 8) {
      return block.quants[i] + kOffset;
    } else {
      int q = i < 16 ? block.quants[i] & 15 : block.quants[i - 16] >> 4;
      if constexpr (kBits == 5) q |= (block.high[i / 8] >> (i % 8) & 1) << 4;
      return q;
    }
  }
  __device__ static float number(int q, std::uint16_t scale, std::uint16_t minimum) {
    const float product = scale_from(scale) * static_cast<float>(kTable ? values().value(q) : q - kOffset);
    return kMinima ? product + half_to_float(minimum) : product;
  }
  __device__ static ValueTable values() {
    constexpr ValueTable table = ValueTable::of(kExponents ? kMxfp4Values : kIq4Values);
    return table;
  }
  // 16 bits for the scale of a block, and back.
  __device__ static std::uint16_t scale_of(const Block& block) {
    if constexpr (kExponents) {
      return block.exponent;
    } else {
      return block.scale;
    }
  }
  __device__ static float scale_from(std::uint16_t bits) {
    return kExponents ? bits_to_float(mxfp4_scale_bits(bits)) : half_to_float(bits);
  }
  __device__ static std::uint16_t minimum_of(const Block& block) {
    if constexpr (kMinima) return block.minimum;
    return 0;
  }
  __device__ static float value(const std::byte* row, std::int64_t col) {
    const auto& block = reinterpret_cast<const Block*>(row)[col / kQuantBlock];
    return number(quant(row, col), scale_of(block), minimum_of(block));
  }

  // --- The packed form ---
  __device__ static std::byte* bytes_at(std::byte* tile, const Place& at) {
    return tile + 16 * (32 * at.block + at.lane) + 8 * at.half;
  }
  __device__ static void store_quants(std::byte* tile, int row, int chunk, int t, const ChunkQuants& q) {
    if constexpr (kBits == 8) {
      for (int b = 0; b < 2; ++b) {
        std::byte* to = bytes_at(tile, Place(row, 32 * b + 4 * t));
        for (int step = 0; step < 2; ++step) {
          std::uint32_t word = 0;
          for (int j = 0; j < 2; ++j) {
            for (int e = 0; e < 2; ++e) {
              word |= static_cast<std::uint32_t>(q[8 * b + 4 * step + 2 * j + e]) << (8 * j + 16 * e);
            }
          }
          write_as(to + 4 * step, word);
        }
      }
    } else {
      store_nibbles(tile, row, chunk, t, q);
      if constexpr (kBits == 5) {
        const Place at(row, 4 * t);
        store_fifth_bits(tile + kQuantBytes + 4 * at.lane, at.half, q);
      }
    }
  }
  // The scales of a row in the tile whose first column is `first`, of `cols`.
  __device__ static void store_scales(std::byte* tile, int row, const std::byte* from, std::int64_t first,
                                      std::int64_t cols) {
    for (int b = 0; b < 2; ++b) {
      const std::int64_t block = first / kQuantBlock + b;
      const bool is_there = block * kQuantBlock < cols;
      const Block* source = reinterpret_cast<const Block*>(from) + block;
      std::byte* to = tile + kScalesAt + 4 * row + 2 * b;
      write_as<std::uint16_t>(to, is_there ? scale_of(*source) : std::uint16_t{0});
      if constexpr (kMinima) write_as<std::uint16_t>(to + kScaleBytes, is_there ? source->minimum : std::uint16_t{0});
    }
  }
  __device__ static float element(const std::byte* tile, int row, int col) {
    const Place at(row, col);
    int q = 0;
    if constexpr (kBits == 8) {
      const std::byte* bytes = bytes_at(const_cast<std::byte*>(tile), at);
      q = static_cast<int>(bytes[4 * (at.pair / 2) + at.pair % 2 + 2 * at.element]);
    } else {
      q = stored_nibble(tile, at);
      if constexpr (kBits == 5) q |= stored_fifth_bit(tile + kQuantBytes + 4 * at.lane, at);
    }
    const std::byte* scale = tile + kScalesAt + 4 * row + 2 * at.block;
    return number(q, read_as<std::uint16_t>(scale), kMinima ? read_as<std::uint16_t>(scale + kScaleBytes) : 0);
  }

  // --- What a lane has of a tile while it is multiplied ---
  __device__ void begin(const std::byte* tile) {
    for (int h = 0; h < 2; ++h) {
      const std::byte* at = tile + kScalesAt + 4 * (lane() / 4 + 8 * h);
      scales_[h] = read_as<std::uint32_t>(at);
      if constexpr (kMinima) minima_[h] = read_as<std::uint32_t>(at + kScaleBytes);
    }
    if constexpr (kBits == 5) fifth_ = read_as<std::uint32_t>(tile + kQuantBytes + 4 * lane());
  }
  __device__ void chunk(const std::byte* tile, int) {
    quants_[0] = load_as<Words4>(tile + 16 * lane());
    if constexpr (kBits == 8) quants_[1] = load_as<Words4>(tile + 16 * (32 + lane()));
  }
  // The A operands of the two steps of block b (0 or 1) of the chunk.
  __device__ void fragments(int, int b, std::uint32_t (&a)[2][4]) const {
    for (int step = 0; step < 2; ++step) {
      for (int h = 0; h < 2; ++h) {
        for (int j = 0; j < 2; ++j) a[step][2 * j + h] = halves(h, b, step, j);
      }
    }
  }
  __device__ float scale(int h, int b, int) const {
    return scale_from(static_cast<std::uint16_t>(scales_[h] >> (16 * b)));
  }
  __device__ float minimum(int h, int b) const {
    return half_to_float(static_cast<std::uint16_t>(minima_[h] >> (16 * b)));
  }

 private:
  __device__ std::uint32_t halves(int h, int b, int step, int j) const {
    if constexpr (kTable) {
      return values().pair(quants_[0].word[2 * b + h], 2 * step + j);
    } else if constexpr (kBits == 8) {
      const std::uint32_t word = quants_[b].word[2 * h + step];
      return half2_sub(and_or(word >> (8 * j), twice(0x00FF), k1024), twice(0x6400 + kOffset));
    } else {
      const int i = 2 * step + j;
      std::uint32_t pair = nibble_pair(quants_[0].word[2 * b + h], i);
      if constexpr (kBits == 5) pair |= fifth_bits(fifth_, h, b, i);
      // Even: 1024 + q; odd: 1024 + 16 q. Both less the offset.
      constexpr std::uint32_t kMinus = kOffset == 0 ? 0xD400 : kOffset == 8 ? 0xD480 : 0xD500;  // -64 - offset
      static_assert(kOffset == 0 || kOffset == 8 || kOffset == 16);
      return i % 2 == 0 ? half2_sub(pair, twice(0x6400 + kOffset)) : half2_fma(pair, twice(0x2C00), twice(kMinus));
    }
  }

  Words4 quants_[kBits == 8 ? 2 : 1];
  std::uint32_t scales_[2], minima_[2], fifth_;
};

using FormatQ8_0 = BlockFormat<DType::Q8_0, BlockQ8_0, 8, 128, false>;
using FormatQ4_0 = BlockFormat<DType::Q4_0, BlockQ4_0, 4, 8, false>;
using FormatQ4_1 = BlockFormat<DType::Q4_1, BlockQ4_1, 4, 0, true>;
using FormatQ5_0 = BlockFormat<DType::Q5_0, BlockQ5_0, 5, 16, false>;
using FormatQ5_1 = BlockFormat<DType::Q5_1, BlockQ5_1, 5, 0, true>;
using FormatIQ4_NL = BlockFormat<DType::IQ4_NL, BlockIQ4_NL, 4, 0, false>;
using FormatMXFP4 = BlockFormat<DType::MXFP4, BlockMXFP4, 4, 0, false>;

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
