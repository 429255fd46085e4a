// The forms to which types are brought that have no kernels of their own, on a device or at all: nothing is rounded,
// all products of a scale and a code are exact.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"
#include "tensor/quant.h"
#include "tensor/weight_types.h"

namespace frspec {

// w[i] = scale * scales[i / 16] * values[q[i]]; the nibbles q as in Q4_K.
struct BlockCoded {
  static constexpr int kElements = kSuperBlock;
  float scale;
  std::int8_t values[16];  // the same in all blocks of a type
  std::int8_t scales[kSuperBlock / 16];
  std::uint8_t quants[kSuperBlock / 2];
};
static_assert(sizeof(BlockCoded) == 164);

// The type of the form of such a type: Q4_0 of the narrow ones, Coded of the others.
constexpr DType coded_type(DType type) {
  switch (type) {
#define FRSPEC_CASE(name) case DType::name:
    FRSPEC_NARROW_TYPES(FRSPEC_CASE)
#undef FRSPEC_CASE
    return DType::Q4_0;
    default:
      return DType::Coded;
  }
}

// Brings a row of `cols` elements to its form, blocks of coded_type(type): of FRSPEC_CODED_TYPES, Q3_K and IQ4_XS.
void code_row(DType type, const std::byte* row, std::byte* to, std::int64_t cols);

// The f16 scale of IQ1_M.
constexpr std::uint16_t iq1_m_scale(const BlockIQ1_M& block) {
  return static_cast<std::uint16_t>(block.scales[0] >> 12 | (block.scales[1] >> 12) << 4 |
                                    (block.scales[2] >> 12) << 8 | (block.scales[3] >> 12) << 12);
}

}  // namespace frspec
