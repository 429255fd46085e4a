// Packed Q2_K: tiles of 16 x 256 with as many bytes as in the file. The sum over 16 columns is scaled in f32; so are
// the sums of 16 activations, by which minima are multiplied.
//
// Tile: quants (2 pairs of chunks, 16 bytes for each lane: (chunk, half), one word each), 16 bytes of scale and minimum
// (high half) for each row, and the two f16 scales of each row.
#pragma once

#include "cuda/formats/pieces.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct FormatQ2_K {
  using Block = BlockQ2_K;
  static constexpr DType kType = DType::Q2_K;
  static constexpr Scaling kScaling = Scaling::PerStep;
  static constexpr bool kMinima = true;
  static constexpr bool kBf16 = false;
  static constexpr int kTileCols = kSuperBlock;
  static constexpr int kScalesAt = kStrip * kTileCols / 4;
  static constexpr int kScaleAt = kScalesAt + kStrip * 16;
  static constexpr int kTileBytes = kScaleAt + kStrip * 4;
  static constexpr int kStageTiles = 2;
  static_assert(kTileBytes == kStrip * sizeof(Block) && kTileBytes % 16 == 0);

  // --- The file's form ---
  __device__ static const Block& block_of(const std::byte* row, std::int64_t col) {
    return reinterpret_cast<const Block*>(row)[col / kSuperBlock];
  }
  __device__ static int quant(const std::byte* row, std::int64_t col) {
    const int i = static_cast<int>(col % kSuperBlock);
    return block_of(row, col).quants[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
  }
  __device__ static float number(int q, std::uint16_t scale, std::uint16_t minimum, int both) {
    const float by = half_to_float(scale) * static_cast<float>(both & 15);
    return by * static_cast<float>(q) - half_to_float(minimum) * static_cast<float>(both >> 4);
  }
  __device__ static float value(const std::byte* row, std::int64_t col) {
    const Block& block = block_of(row, col);
    return number(quant(row, col), block.scale, block.minimum, block.scales[col % kSuperBlock / 16]);
  }

  // --- The packed form ---
  __device__ static std::byte* quants_at(std::byte* tile, const Place& at) {
    return tile + 16 * (32 * (at.chunk / 2) + at.lane) + 8 * (at.chunk % 2) + 4 * at.half;
  }
  __device__ static void store_quants(std::byte* tile, int row, int chunk, int t, const ChunkQuants& q) {
    write_as(quants_at(tile, Place(row, kChunk * chunk + 4 * t)), two_bits_word(q, 0));
  }
  __device__ static void store_scales(std::byte* tile, int row, const std::byte* from, std::int64_t first,
                                      std::int64_t) {
    const Block& block = block_of(from, first);
    for (int i = 0; i < 16; ++i) write_as(tile + kScalesAt + 16 * row + i, block.scales[i]);
    write_as(tile + kScaleAt + 4 * row, pack_halves(block.scale, block.minimum));
  }
  __device__ static float element(const std::byte* tile, int row, int col) {
    const auto word = read_as<std::uint32_t>(quants_at(const_cast<std::byte*>(tile), Place(row, col)));
    const auto scales = read_as<std::uint32_t>(tile + kScaleAt + 4 * row);
    return number(stored_two_bits(word, Place(row, col)), static_cast<std::uint16_t>(scales),
                  static_cast<std::uint16_t>(scales >> 16),
                  read_as<std::uint8_t>(tile + kScalesAt + 16 * row + col / 16));
  }

  // --- What a lane has of a tile while it is multiplied ---
  __device__ void begin(const std::byte* tile) {
    for (int h = 0; h < 2; ++h) {
      const auto scales = read_as<std::uint32_t>(tile + kScaleAt + 4 * (lane() / 4 + 8 * h));
      scale_[h] = half_to_float(static_cast<std::uint16_t>(scales));
      minimum_[h] = -half_to_float(static_cast<std::uint16_t>(scales >> 16));
    }
  }
  __device__ void chunk(const std::byte* tile, int c) {
    quants_ = load_as<Words2>(tile + 16 * (32 * (c / 2) + lane()) + 8 * (c % 2));
    for (int h = 0; h < 2; ++h) {
      scales_[h] = read_as<std::uint32_t>(tile + kScalesAt + 16 * (lane() / 4 + 8 * h) + 4 * c);
    }
  }
  // The A operands of the two steps of block b (0 or 1) of the chunk.
  __device__ void fragments(int, int b, std::uint32_t (&a)[2][4]) const {
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 4; ++i) {
        a[i / 2][2 * (i % 2) + h] = half2_sub(and_or(quants_.word[h] >> (8 * b + 2 * i), twice(0x0003), k1024), k1024);
      }
    }
  }
  __device__ float scale(int h, int b, int step) const { return scale_[h] * static_cast<float>(both(h, b, step) & 15); }
  __device__ float minimum(int h, int b, int step) const {
    return minimum_[h] * static_cast<float>(both(h, b, step) >> 4);
  }

 private:
  __device__ int both(int h, int b, int step) const {
    return static_cast<int>(scales_[h] >> (8 * (2 * b + step)) & 0xFF);
  }

  Words2 quants_;
  std::uint32_t scales_[2];
  float scale_[2], minimum_[2];
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
