// Packed F16 and BF16: fragments as they are. Tile of 16 x 64: for each (block of 32, half of the rows) 16 bytes for
// each lane, the four pairs of one row.
#pragma once

#include "cuda/formats/pieces.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template <DType kDType>
struct HalfFormat {
  static constexpr DType kType = kDType;
  static constexpr Scaling kScaling = Scaling::None;
  static constexpr bool kMinima = false;
  static constexpr bool kBf16 = kDType == DType::BF16;
  static constexpr int kTileCols = kChunk;
  static constexpr int kTileBytes = kStrip * kTileCols * 2;
  static constexpr int kStageTiles = 1;

  __device__ static int quant(const std::byte* row, std::int64_t col) { return read_as<std::uint16_t>(row + 2 * col); }
  __device__ static float number(int bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    return kBf16 ? bf16_to_float(half) : half_to_float(half);
  }
  __device__ static float value(const std::byte* row, std::int64_t col) { return number(quant(row, col)); }

  __device__ static std::byte* pairs_at(std::byte* tile, const Place& at) {
    return tile + 16 * (32 * (2 * at.block + at.half) + at.lane);
  }
  __device__ static void store_quants(std::byte* tile, int row, int, int t, const ChunkQuants& q) {
    for (int b = 0; b < 2; ++b) {
      std::byte* to = pairs_at(tile, Place(row, 32 * b + 4 * t));
      for (int i = 0; i < 4; ++i) write_as(to + 4 * i, pack_halves(q[8 * b + 2 * i], q[8 * b + 2 * i + 1]));
    }
  }
  __device__ static void store_scales(std::byte*, int, const std::byte*, std::int64_t, std::int64_t) {}
  __device__ static float element(const std::byte* tile, int row, int col) {
    const Place at(row, col);
    return number(read_as<std::uint16_t>(pairs_at(const_cast<std::byte*>(tile), at) + 4 * at.pair + 2 * at.element));
  }

  __device__ void begin(const std::byte*) {}
  __device__ void chunk(const std::byte* tile, int) {
    for (int i = 0; i < 4; ++i) pairs_[i] = load_as<Words4>(tile + 16 * (32 * i + lane()));
  }
  __device__ void fragments(int, int b, std::uint32_t (&a)[2][4]) const {
    for (int step = 0; step < 2; ++step) {
      for (int h = 0; h < 2; ++h) {
        for (int j = 0; j < 2; ++j) a[step][2 * j + h] = pairs_[2 * b + h].word[2 * step + j];
      }
    }
  }

 private:
  Words4 pairs_[4];
};

using FormatF16 = HalfFormat<DType::F16>;
using FormatBF16 = HalfFormat<DType::BF16>;

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
