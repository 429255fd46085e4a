// Packed coded rows (tensor/coded.h), to which types are brought that have no format of their own here: tiles of
// 16 x 256. A value is exact in f16; its product with the 8-bit scale need not be, so the sum over 16 columns is scaled
// in f32.
//
// Tile: nibbles (4 chunks, 16 bytes for each lane), 16 scales for each row, the f32 scale of each row, and the 16
// values.
#pragma once

#include "cuda/formats/pieces.cuh"
#include "tensor/coded.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct FormatCoded {
  using Block = BlockCoded;
  static constexpr DType kType = DType::Coded;
  static constexpr Scaling kScaling = Scaling::PerStep;
  static constexpr bool kMinima = false;
  static constexpr bool kBf16 = false;
  static constexpr int kTileCols = kSuperBlock;
  static constexpr int kScalesAt = kStrip * kTileCols / 2;
  static constexpr int kScaleAt = kScalesAt + kStrip * 16;
  static constexpr int kValuesAt = kScaleAt + kStrip * 4;
  static constexpr int kTileBytes = kValuesAt + 16;
  static constexpr int kStageTiles = 1;
  static_assert(kTileBytes % 16 == 0);

  // --- The row's form ---
  __device__ static const Block& block_of(const std::byte* row, std::int64_t col) {
    return reinterpret_cast<const Block*>(row)[col / kSuperBlock];
  }
  __device__ static int quant(const std::byte* row, std::int64_t col) {
    const int i = static_cast<int>(col % kSuperBlock);
    const std::uint8_t both = block_of(row, col).quants[32 * (i / 64) + i % 32];
    return i / 32 % 2 == 0 ? both & 15 : both >> 4;
  }
  __device__ static float number(int value, float scale, int s) {
    return scale * static_cast<float>(s) * static_cast<float>(value);
  }
  __device__ static float value(const std::byte* row, std::int64_t col) {
    const Block& block = block_of(row, col);
    return number(block.values[quant(row, col)], block.scale, block.scales[col % kSuperBlock / 16]);
  }

  // --- The packed form ---
  __device__ static void store_quants(std::byte* tile, int row, int chunk, int t, const ChunkQuants& q) {
    store_nibbles(tile, row, chunk, t, q);
  }
  __device__ static void store_scales(std::byte* tile, int row, const std::byte* from, std::int64_t first,
                                      std::int64_t) {
    const Block& block = block_of(from, first);
    for (int i = 0; i < 16; ++i) write_as(tile + kScalesAt + 16 * row + i, block.scales[i]);
    write_as(tile + kScaleAt + 4 * row, block.scale);
    if (row != 0) return;  // the values are those of all rows
    for (int i = 0; i < 16; ++i) write_as(tile + kValuesAt + i, block.values[i]);
  }
  __device__ static float element(const std::byte* tile, int row, int col) {
    const int q = stored_nibble(tile, Place(row, col));
    return number(read_as<std::int8_t>(tile + kValuesAt + q), read_as<float>(tile + kScaleAt + 4 * row),
                  read_as<std::int8_t>(tile + kScalesAt + 16 * row + col / 16));
  }

  // --- What a lane has of a tile while it is multiplied ---
  __device__ void begin(const std::byte* tile) {
    values_.words = load_as<Words4>(tile + kValuesAt);
    for (std::uint32_t& word : values_.words.word) word ^= 0x80808080u;
    for (int h = 0; h < 2; ++h) scale_[h] = read_as<float>(tile + kScaleAt + 4 * (lane() / 4 + 8 * h));
  }
  __device__ void chunk(const std::byte* tile, int c) {
    quants_ = load_as<Words4>(tile + 16 * (32 * c + lane()));
    for (int h = 0; h < 2; ++h) {
      scales_[h] = read_as<std::uint32_t>(tile + kScalesAt + 16 * (lane() / 4 + 8 * h) + 4 * c);
    }
  }
  // The A operands of the two steps of block b (0 or 1) of the chunk.
  __device__ void fragments(int, int b, std::uint32_t (&a)[2][4]) const {
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 4; ++i) a[i / 2][2 * (i % 2) + h] = values_.pair(quants_.word[2 * b + h], i);
    }
  }
  __device__ float scale(int h, int b, int step) const {
    const auto byte = static_cast<std::int8_t>(scales_[h] >> (8 * (2 * b + step)));
    return scale_[h] * static_cast<float>(byte);
  }

 private:
  ValueTable values_;
  Words4 quants_;
  std::uint32_t scales_[2];
  float scale_[2];
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
