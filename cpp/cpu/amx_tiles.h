// The tile instructions of AMX behind plain functions, and the same functions in software: the kernels in
// multiply_amx.inl can then be tested on machines without AMX (FRSPEC_CPU=amx-emulated). For kernels_amx*.cpp only.
//
// Tile 0 to 3: sums, 16 rows of 16 numbers. Tile 4, 5: rows of x, 16 of them. Tile 6, 7: lines of a panel.
#pragma once

#include <cstdint>

namespace frspec::cpu {
namespace {

// What a row of x and a column of lines hold: 32 bytes (a block), 16 bytes (half a block) or 32 bf16.
enum class TileShape : int { None, Block, HalfBlock, Bf16 };

constexpr int x_bytes(TileShape shape) { return shape == TileShape::Bf16 ? 64 : shape == TileShape::Block ? 32 : 16; }

#if FRSPEC_AMX_EMULATED

struct Tile {
  std::uint8_t rows[16][64];
};
thread_local Tile tiles[8];
thread_local TileShape tile_shape = TileShape::None;

inline void shape_tiles(TileShape shape) { tile_shape = shape; }

template <int kTile>
inline void tile_zero() {
  __builtin_memset(&tiles[kTile], 0, sizeof(Tile));
}

template <int kTile>
inline void tile_load(const void* memory, std::int64_t stride) {
  const int rows = kTile < 6 ? 16 : x_bytes(tile_shape) / 4;
  const int bytes = kTile == 4 || kTile == 5 ? x_bytes(tile_shape) : 64;
  for (int r = 0; r < rows; ++r) {
    __builtin_memcpy(tiles[kTile].rows[r], static_cast<const char*>(memory) + r * stride,
                     static_cast<std::size_t>(bytes));
  }
}

template <int kTile>
inline void tile_store(void* memory, std::int64_t stride) {
  for (int r = 0; r < 16; ++r) __builtin_memcpy(static_cast<char*>(memory) + r * stride, tiles[kTile].rows[r], 64);
}

// Sums += signed bytes of x times signed bytes of lines.
template <int kSums, int kX, int kLines>
inline void tile_dot_bytes() {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      std::int32_t sum;
      __builtin_memcpy(&sum, tiles[kSums].rows[m] + 4 * n, 4);
      for (int k = 0; k < x_bytes(tile_shape); ++k) {
        sum += static_cast<std::int8_t>(tiles[kX].rows[m][k]) *
               static_cast<std::int8_t>(tiles[kLines].rows[k / 4][4 * n + k % 4]);
      }
      __builtin_memcpy(tiles[kSums].rows[m] + 4 * n, &sum, 4);
    }
  }
}

inline float tile_bf16(const std::uint8_t* p) {
  std::uint16_t half;
  __builtin_memcpy(&half, p, 2);
  const std::uint32_t bits = std::uint32_t{half} << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// Sums += pairs of bf16.
template <int kSums, int kX, int kLines>
inline void tile_dot_bf16() {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float sum;
      __builtin_memcpy(&sum, tiles[kSums].rows[m] + 4 * n, 4);
      for (int k = 0; k < 32; ++k) {
        sum += tile_bf16(tiles[kX].rows[m] + 2 * k) * tile_bf16(tiles[kLines].rows[k / 2] + 4 * n + 2 * (k % 2));
      }
      __builtin_memcpy(tiles[kSums].rows[m] + 4 * n, &sum, 4);
    }
  }
}

#else

// Each thread has tiles of its own, and has to say how they are shaped.
thread_local TileShape tile_shape = TileShape::None;

inline void shape_tiles(TileShape shape) {
  if (tile_shape == shape) return;
  struct alignas(64) Config {
    std::uint8_t palette, start_row, reserved[14];
    std::uint16_t row_bytes[16];
    std::uint8_t rows[16];
  } config = {};
  static_assert(sizeof(Config) == 64);
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = static_cast<std::uint16_t>(tile == 4 || tile == 5 ? x_bytes(shape) : 64);
    config.rows[tile] = static_cast<std::uint8_t>(tile < 6 ? 16 : x_bytes(shape) / 4);
  }
  // GCC 12 believes that the instruction reads 8 bytes only, and would drop the stores to the rest.
  asm volatile("" : : "m"(config) : "memory");
  _tile_loadconfig(&config);
  tile_shape = shape;
}

// The intrinsics are macros that want literal tile numbers.
template <int kTile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

template <int kTile>
inline void tile_load(const void* memory, std::int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(memory), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
inline void tile_store(void* memory, std::int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(memory), "r"(stride), "i"(kTile) : "memory");
}

// Sums += signed bytes of x times signed bytes of lines.
template <int kSums, int kX, int kLines>
inline void tile_dot_bytes() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kX), "i"(kLines));
}

// Sums += pairs of bf16.
template <int kSums, int kX, int kLines>
inline void tile_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kX), "i"(kLines));
}

#endif

}  // namespace
}  // namespace frspec::cpu
