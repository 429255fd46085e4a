// Block formats of quantized weights, as GGUF stores them.
#pragma once

#include <cstdint>

namespace frspec {

constexpr int kQuantBlock = 32;  // elements per block of the formats below

// w[i] = scale * quants[i]
struct BlockQ8_0 {
  std::uint16_t scale;  // f16
  std::int8_t quants[kQuantBlock];
};
static_assert(sizeof(BlockQ8_0) == 34);

// w[i] = scale * (quants[i] - 8); byte i holds elements i (low half) and i + 16 (high half)
struct BlockQ4_0 {
  std::uint16_t scale;  // f16
  std::uint8_t quants[kQuantBlock / 2];
};
static_assert(sizeof(BlockQ4_0) == 18);

}  // namespace frspec
