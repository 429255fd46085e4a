// Packed Q4_K and Q5_K: tiles of 16 x 256 with as many bytes as in the file.
//
// q * scale, both integers, is exact in f16 (at most 31 * 63), so a tile is summed up on the tensor cores and scaled
// once, in f32. The minima are a product of their own: eight integers by the sums of 32 activations each, these as f16
// pairs whose sum they are; one step of mma for a tile.
//
// Tile: nibbles (4 chunks, 16 bytes for each lane), fifth bits (4 chunks, a word for each lane), three
// words of 6-bit numbers for each row (word after word: (3, 16)), and (scale, minimum) of each row.
#pragma once

#include "cuda/formats/pieces.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// The sixteen 6-bit numbers of a row as pairs, whose second is 16 bits further up: minima in the low 12 bits of words 0
// and 1, the first two pairs of scales in the low 12 bits of word 2, the other two in the bits that are left.
struct SixBits {
  std::uint32_t word[3];

  __device__ std::uint32_t scales(int i) const {  // pair i of 4
    return i < 2 ? (word[2] >> (6 * i)) & twice(0x3F)
                 : ((word[i - 2] >> 12) & twice(0x0F)) | (shift_right(word[2], 2 * i + 4) & twice(0x30));
  }
  __device__ std::uint32_t minima(int i) const { return (word[i / 2] >> (6 * (i % 2))) & twice(0x3F); }
  __device__ void set(int i, std::uint32_t pair_of_scales, std::uint32_t pair_of_minima) {
    word[i / 2] |= pair_of_minima << (6 * (i % 2));
    if (i < 2) {
      word[2] |= pair_of_scales << (6 * i);
    } else {
      word[i - 2] |= (pair_of_scales & twice(0x0F)) << 12;
      word[2] |= ((pair_of_scales & twice(0x30)) >> 4) << (2 * i + 8);
    }
  }
};

template <DType kDType, class GgufBlock, int kBits>
struct KFormat {
  using Block = GgufBlock;
  static constexpr DType kType = kDType;
  static constexpr Scaling kScaling = Scaling::PerTile;
  static constexpr bool kMinima = true;
  static constexpr bool kBf16 = false;
  static constexpr int kTileCols = kSuperBlock;
  static constexpr int kQuantBytes = kStrip * kTileCols / 2;
  static constexpr int kFifthBytes = kBits == 5 ? kStrip * kTileCols / 8 : 0;
  static constexpr int kSixBitsAt = kQuantBytes + kFifthBytes;
  static constexpr int kScalesAt = kSixBitsAt + kStrip * 12;
  static constexpr int kTileBytes = kScalesAt + kStrip * 4;
  static constexpr int kStageTiles = 1;
  static_assert(kTileBytes == kStrip * sizeof(Block) && kTileBytes % 16 == 0);

  // --- The file's form ---
  __device__ static const Block& block_of(const std::byte* row, std::int64_t col) {
    return reinterpret_cast<const Block*>(row)[col / kSuperBlock];
  }
  __device__ static int quant(const std::byte* row, std::int64_t col) {
    const Block& block = block_of(row, col);
    const int i = static_cast<int>(col % kSuperBlock), b = i / 32;
    const std::uint8_t both = block.quants[32 * (b / 2) + i % 32];
    int q = b % 2 == 0 ? both & 15 : both >> 4;
    if constexpr (kBits == 5) q |= (block.high[i % 32] >> b & 1) << 4;
    return q;
  }
  __device__ static float number(int q, std::uint16_t scale, std::uint16_t minimum, int s, int m) {
    const float by = half_to_float(scale) * static_cast<float>(s);
    const float less = half_to_float(minimum) * static_cast<float>(m);
    return by * static_cast<float>(q) - less;
  }
  __device__ static float value(const std::byte* row, std::int64_t col) {
    const Block& block = block_of(row, col);
    const int b = static_cast<int>(col % kSuperBlock) / 32;
    return number(quant(row, col), block.scale, block.minimum, packed_scale(block.packed, b),
                  packed_minimum(block.packed, b));
  }

  // --- The packed form ---
  __device__ static std::byte* fifth_at(std::byte* tile, const Place& at) {
    return tile + kQuantBytes + 4 * (32 * at.chunk + at.lane);
  }
  __device__ static SixBits six_bits(const std::byte* tile, int row) {
    SixBits bits;
    for (int i = 0; i < 3; ++i) bits.word[i] = read_as<std::uint32_t>(tile + kSixBitsAt + 4 * (kStrip * i + row));
    return bits;
  }
  __device__ static void store_quants(std::byte* tile, int row, int chunk, int t, const ChunkQuants& q) {
    store_nibbles(tile, row, chunk, t, q);
    if constexpr (kBits == 5) {
      const Place at(row, kChunk * chunk + 4 * t);
      store_fifth_bits(fifth_at(tile, at), at.half, q);
    }
  }
  __device__ static void store_scales(std::byte* tile, int row, const std::byte* from, std::int64_t first,
                                      std::int64_t) {
    const Block& block = block_of(from, first);
    SixBits bits = {};
    for (int i = 0; i < 4; ++i) {
      bits.set(i, pack_halves(packed_scale(block.packed, 2 * i), packed_scale(block.packed, 2 * i + 1)),
               pack_halves(packed_minimum(block.packed, 2 * i), packed_minimum(block.packed, 2 * i + 1)));
    }
    for (int i = 0; i < 3; ++i) write_as(tile + kSixBitsAt + 4 * (kStrip * i + row), bits.word[i]);
    write_as(tile + kScalesAt + 4 * row, pack_halves(block.scale, block.minimum));
  }
  __device__ static float element(const std::byte* tile, int row, int col) {
    const Place at(row, col);
    int q = stored_nibble(tile, at);
    if constexpr (kBits == 5) q |= stored_fifth_bit(fifth_at(const_cast<std::byte*>(tile), at), at);
    const SixBits bits = six_bits(tile, row);
    const int b = col / 32;
    const auto scales = read_as<std::uint32_t>(tile + kScalesAt + 4 * row);
    return number(q, static_cast<std::uint16_t>(scales), static_cast<std::uint16_t>(scales >> 16),
                  static_cast<int>(bits.scales(b / 2) >> (16 * (b % 2)) & 63),
                  static_cast<int>(bits.minima(b / 2) >> (16 * (b % 2)) & 63));
  }

  // --- What a lane has of a tile while it is multiplied ---
  // Only what the next multiplications need is in registers: those are scarce.
  __device__ void begin(const std::byte*) {}
  __device__ void chunk(const std::byte* tile, int c) {
    quants_ = load_as<Words4>(tile + 16 * (32 * c + lane()));
    if constexpr (kBits == 5) fifth_ = read_as<std::uint32_t>(tile + kQuantBytes + 4 * (32 * c + lane()));
    for (int h = 0; h < 2; ++h) {
      pairs_[h] = half2_sub(six_bits(tile, lane() / 4 + 8 * h).scales(c) | k1024, k1024);
    }
  }
  // The A operands of the two steps of block b (0 or 1) of the chunk: q * scale.
  __device__ void fragments(int, int b, std::uint32_t (&a)[2][4]) const {
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t scale = permute(pairs_[h], b == 0 ? 0x1010 : 0x3232);
      const std::uint32_t part = half2_mul(scale, twice(0x2C00));        // scale / 16
      const std::uint32_t minus_1024 = half2_mul(scale, twice(0xE400));  // -1024 scale
      const std::uint32_t minus_64 = half2_mul(scale, twice(0xD400));
      for (int i = 0; i < 4; ++i) {
        std::uint32_t pair = nibble_pair(quants_.word[2 * b + h], i);
        if constexpr (kBits == 5) pair |= fifth_bits(fifth_, h, b, i);
        a[i / 2][2 * (i % 2) + h] = i % 2 == 0 ? half2_fma(pair, scale, minus_1024) : half2_fma(pair, part, minus_64);
      }
    }
  }
  // What the sums of a tile are multiplied by; the A operand of the step of minima, and the same of its sums.
  __device__ void end(const std::byte* tile) {
    const int t = lane() % 4;
    for (int h = 0; h < 2; ++h) {
      const int row = lane() / 4 + 8 * h;
      const auto word = read_as<std::uint32_t>(tile + kSixBitsAt + 4 * (kStrip * (t / 2) + row));
      minima_[h] = half2_sub(((word >> (6 * (t % 2))) & twice(0x3F)) | k1024, k1024);
      scales_[h] = read_as<std::uint32_t>(tile + kScalesAt + 4 * row);
    }
  }
  __device__ float tile_scale(int h) const { return half_to_float(static_cast<std::uint16_t>(scales_[h])); }
  __device__ void minima_fragment(std::uint32_t (&a)[4]) const {
    for (int h = 0; h < 2; ++h) a[h] = a[2 + h] = minima_[h];
  }
  __device__ float minima_scale(int h) const { return -half_to_float(static_cast<std::uint16_t>(scales_[h] >> 16)); }

 private:
  Words4 quants_;
  std::uint32_t fifth_, pairs_[2], minima_[2], scales_[2];
};

using FormatQ4_K = KFormat<DType::Q4_K, BlockQ4_K, 4>;
using FormatQ5_K = KFormat<DType::Q5_K, BlockQ5_K, 5>;

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
