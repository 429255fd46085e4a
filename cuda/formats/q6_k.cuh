// Packed Q6_K: tiles of 16 x 256 with as many bytes as in the file. q - 32 is exact in f16; its product with the 8-bit
// scale need not be, so the sum over 16 columns is scaled in f32.
//
// Tile: low nibbles (4 chunks, 16 bytes for each lane), the two high bits (2 pairs of chunks, 16 bytes for each lane:
// (chunk, half), one word each), 16 scales for each row, and the f16 scale of each row.
#pragma once

#include "cuda/formats/pieces.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct FormatQ6_K {
  using Block = BlockQ6_K;
  static constexpr DType kType = DType::Q6_K;
  static constexpr Scaling kScaling = Scaling::PerStep;
  static constexpr bool kMinima = false;
  static constexpr bool kBf16 = false;
  static constexpr int kTileCols = kSuperBlock;
  static constexpr int kLowBytes = kStrip * kTileCols / 2;
  static constexpr int kHighBytes = kStrip * kTileCols / 4;
  static constexpr int kScalesAt = kLowBytes + kHighBytes;
  static constexpr int kScaleAt = kScalesAt + kStrip * 16;
  static constexpr int kTileBytes = kScaleAt + kStrip * 2;
  static constexpr int kStageTiles = 1;
  static_assert(kTileBytes == kStrip * sizeof(Block) && kTileBytes % 16 == 0);

  // --- The file's form ---
  __device__ static const Block& block_of(const std::byte* row, std::int64_t col) {
    return reinterpret_cast<const Block*>(row)[col / kSuperBlock];
  }
  __device__ static int quant(const std::byte* row, std::int64_t col) {
    const Block& block = block_of(row, col);
    const int i = static_cast<int>(col % kSuperBlock), half = i / 128, quarter = i % 128 / 32, at = i % 32;
    const std::uint8_t low = block.low[64 * half + 32 * (quarter % 2) + at];
    return (quarter < 2 ? low & 15 : low >> 4) | (block.high[32 * half + at] >> (2 * quarter) & 3) << 4;
  }
  __device__ static float number(int q, std::uint16_t scale, int s) {
    return half_to_float(scale) * static_cast<float>(s) * static_cast<float>(q - 32);
  }
  __device__ static float value(const std::byte* row, std::int64_t col) {
    const Block& block = block_of(row, col);
    return number(quant(row, col), block.scale, block.scales[col % kSuperBlock / 16]);
  }

  // --- The packed form ---
  __device__ static std::byte* high_at(std::byte* tile, const Place& at) {
    return tile + kLowBytes + 16 * (32 * (at.chunk / 2) + at.lane) + 8 * (at.chunk % 2) + 4 * at.half;
  }
  __device__ static void store_quants(std::byte* tile, int row, int chunk, int t, const ChunkQuants& q) {
    store_nibbles(tile, row, chunk, t, q);
    write_as(high_at(tile, Place(row, kChunk * chunk + 4 * t)), two_bits_word(q, 4));
  }
  __device__ static void store_scales(std::byte* tile, int row, const std::byte* from, std::int64_t first,
                                      std::int64_t) {
    const Block& block = block_of(from, first);
    for (int i = 0; i < 16; ++i) write_as(tile + kScalesAt + 16 * row + i, block.scales[i]);
    write_as(tile + kScaleAt + 2 * row, block.scale);
  }
  __device__ static float element(const std::byte* tile, int row, int col) {
    const Place at(row, col);
    const auto high = read_as<std::uint32_t>(high_at(const_cast<std::byte*>(tile), at));
    const int q = stored_nibble(tile, at) | stored_two_bits(high, at) << 4;
    return number(q, read_as<std::uint16_t>(tile + kScaleAt + 2 * row),
                  read_as<std::int8_t>(tile + kScalesAt + 16 * row + col / 16));
  }

  // --- What a lane has of a tile while it is multiplied ---
  __device__ void begin(const std::byte* tile) {
    for (int h = 0; h < 2; ++h) {
      scale_[h] = half_to_float(read_as<std::uint16_t>(tile + kScaleAt + 2 * (lane() / 4 + 8 * h)));
    }
  }
  __device__ void chunk(const std::byte* tile, int c) {
    low_ = load_as<Words4>(tile + 16 * (32 * c + lane()));
    high_ = load_as<Words2>(tile + kLowBytes + 16 * (32 * (c / 2) + lane()) + 8 * (c % 2));
    for (int h = 0; h < 2; ++h) {
      scales_[h] = read_as<std::uint32_t>(tile + kScalesAt + 16 * (lane() / 4 + 8 * h) + 4 * c);
    }
  }
  // The A operands of the two steps of block b (0 or 1) of the chunk.
  __device__ void fragments(int, int b, std::uint32_t (&a)[2][4]) const {
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t high = high_.word[h];
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t pair = nibble_pair(low_.word[2 * b + h], i);
        const int from = 8 * b + 2 * i;
        a[i / 2][2 * (i % 2) + h] =
            i % 2 == 0 ? half2_sub(pair | (shift_right(high, from - 4) & twice(0x0030)), twice(0x6420))
                       : half2_fma(pair | (shift_right(high, from - 8) & twice(0x0300)), twice(0x2C00), twice(0xD600));
      }
    }
  }
  __device__ float scale(int h, int b, int step) const {
    const auto byte = static_cast<std::int8_t>(scales_[h] >> (8 * (2 * b + step)));
    return scale_[h] * static_cast<float>(byte);
  }

 private:
  Words4 low_;
  Words2 high_;
  std::uint32_t scales_[2];
  float scale_[2];
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
