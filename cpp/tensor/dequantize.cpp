// Plain dequantization. Products are formed in the order of the reference implementation (GGUF's own), so the values
// are the same to the bit.
#include "tensor/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "tensor/coded.h"
#include "tensor/quant.h"
#include "tensor/weight_types.h"

namespace frspec {
namespace {

template <class T>
T read(const std::byte* row, std::int64_t i) {
  T value;
  std::memcpy(&value, row + i * static_cast<std::int64_t>(sizeof(T)), sizeof value);
  return value;
}

// Element i of a block of 32 whose nibbles are split in halves.
int nibble(const std::uint8_t* quants, int i) { return i < 16 ? quants[i] & 0xF : quants[i - 16] >> 4; }

int fifth_bit(const std::uint8_t* high, int i) { return (high[i / 8] >> (i % 8) & 1) << 4; }

void values_of(const BlockQ8_0& b, float* y) {
  for (int i = 0; i < kQuantBlock; ++i) y[i] = half_to_float(b.scale) * static_cast<float>(b.quants[i]);
}

void values_of(const BlockQ4_0& b, float* y) {
  for (int i = 0; i < kQuantBlock; ++i) y[i] = half_to_float(b.scale) * static_cast<float>(nibble(b.quants, i) - 8);
}

void values_of(const BlockQ4_1& b, float* y) {
  const float scale = half_to_float(b.scale), minimum = half_to_float(b.minimum);
  for (int i = 0; i < kQuantBlock; ++i) y[i] = scale * static_cast<float>(nibble(b.quants, i)) + minimum;
}

void values_of(const BlockQ5_0& b, float* y) {
  for (int i = 0; i < kQuantBlock; ++i) {
    y[i] = half_to_float(b.scale) * static_cast<float>((nibble(b.quants, i) | fifth_bit(b.high, i)) - 16);
  }
}

void values_of(const BlockQ5_1& b, float* y) {
  const float scale = half_to_float(b.scale), minimum = half_to_float(b.minimum);
  for (int i = 0; i < kQuantBlock; ++i) {
    y[i] = scale * static_cast<float>(nibble(b.quants, i) | fifth_bit(b.high, i)) + minimum;
  }
}

void values_of(const BlockQ2_0& b, float* y) {
  for (int i = 0; i < b.kElements; ++i) {
    y[i] = half_to_float(b.scale) * static_cast<float>((b.quants[i / 4] >> (2 * (i % 4)) & 3) - 1);
  }
}

void values_of(const BlockQ1_0& b, float* y) {
  const float scale = half_to_float(b.scale);
  for (int i = 0; i < b.kElements; ++i) y[i] = (b.quants[i / 8] >> (i % 8) & 1) != 0 ? scale : -scale;
}

// Q4_K and Q5_K; `high_bits` is null for the former.
template <class Block>
void k_values(const Block& block, const std::uint8_t* high_bits, float* y) {
  for (int b = 0; b < 8; ++b) {
    const float scale = half_to_float(block.scale) * packed_scale(block.packed, b);
    const float minimum = half_to_float(block.minimum) * packed_minimum(block.packed, b);
    for (int i = 0; i < 32; ++i) {
      const std::uint8_t pair = block.quants[32 * (b / 2) + i];
      int q = b % 2 == 0 ? pair & 0xF : pair >> 4;
      if (high_bits != nullptr) q |= (high_bits[i] >> b & 1) << 4;
      y[32 * b + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

void values_of(const BlockQ4_K& b, float* y) { k_values(b, nullptr, y); }
void values_of(const BlockQ5_K& b, float* y) { k_values(b, b.high, y); }

void values_of(const BlockQ6_K& block, float* y) {
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, lane = i % 32;
    const std::uint8_t low = block.low[64 * half + 32 * (quarter % 2) + lane];
    const int q = (quarter < 2 ? low & 0xF : low >> 4) | (block.high[32 * half + lane] >> (2 * quarter) & 3) << 4;
    y[i] = half_to_float(block.scale) * block.scales[i / 16] * static_cast<float>(q - 32);
  }
}

void values_of(const BlockQ2_K& block, float* y) {
  const float scale = half_to_float(block.scale), minimum = half_to_float(block.minimum);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int q = block.quants[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
    const std::uint8_t both = block.scales[i / 16];
    y[i] = scale * static_cast<float>(both & 15) * static_cast<float>(q) - minimum * static_cast<float>(both >> 4);
  }
}

void values_of(const BlockIQ4_NL& b, float* y) {
  for (int i = 0; i < kQuantBlock; ++i) y[i] = half_to_float(b.scale) * kIq4Values[nibble(b.quants, i)];
}

void values_of(const BlockMXFP4& b, float* y) {
  const auto scale = std::bit_cast<float>(mxfp4_scale_bits(b.exponent));
  for (int i = 0; i < kQuantBlock; ++i) y[i] = scale * kMxfp4Values[nibble(b.quants, i)];
}

void values_of(const BlockCoded& block, float* y) {
  for (int i = 0; i < kSuperBlock; ++i) {
    const std::uint8_t pair = block.quants[32 * (i / 64) + i % 32];
    y[i] = block.scale * block.scales[i / 16] * block.values[i / 32 % 2 == 0 ? pair & 15 : pair >> 4];
  }
}

// The types that are read by way of their coded form: it loses nothing.
template <DType kType, class Block>
void coded_values(const Block& block, float* y) {
  BlockCoded coded;
  code_row(kType, reinterpret_cast<const std::byte*>(&block), reinterpret_cast<std::byte*>(&coded), kSuperBlock);
  values_of(coded, y);
}
#define CASE(name) \
  void values_of(const Block##name& block, float* y) { coded_values<DType::name>(block, y); }
FRSPEC_CODEBOOK_TYPES(CASE)
CASE(Q3_K)
CASE(IQ4_XS)
#undef CASE

bool is_finite_half(std::uint16_t bits) { return (bits & 0x7C00u) != 0x7C00u; }

template <class Block>
bool is_finite_block(const Block& block) {
  if constexpr (requires { block.minimum; }) {
    if (!is_finite_half(block.minimum)) return false;
  }
  return is_finite_half(block.scale);
}
bool is_finite_block(const BlockIQ1_M& block) { return is_finite_half(iq1_m_scale(block)); }
bool is_finite_block(const BlockMXFP4& block) { return block.exponent != 255; }
bool is_finite_block(const BlockCoded& block) { return std::isfinite(block.scale); }

// Calls use(block, index) for every block of a quantized row; false for other types.
template <class Use>
bool for_each_block(DType type, const std::byte* row, std::int64_t cols, Use&& use) {
  switch (type) {
#define CASE(name)                                                                     \
  case DType::name:                                                                    \
    for (std::int64_t at = 0; at < cols; at += Block##name::kElements) {               \
      use(reinterpret_cast<const Block##name*>(row)[at / Block##name::kElements], at); \
    }                                                                                  \
    return true;
    FRSPEC_QUANTIZED_TYPES(CASE)
    CASE(Coded)
#undef CASE
    default:
      return false;
  }
}

// The floats of an unquantized type.
template <class Use>
void for_each_float(DType type, const std::byte* row, std::int64_t cols, Use&& use) {
  for (std::int64_t i = 0; i < cols; ++i) {
    if (type == DType::F32) {
      use(read<float>(row, i), i);
    } else if (type == DType::F16) {
      use(half_to_float(read<std::uint16_t>(row, i)), i);
    } else if (type == DType::BF16) {
      use(std::bit_cast<float>(std::uint32_t{read<std::uint16_t>(row, i)} << 16), i);
    } else {
      fail("found a row of type ", dtype_name(type), ", expected one of ", weight_type_names());
    }
  }
}

}  // namespace

float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1Fu;
  const std::uint32_t mantissa = h & 0x3FFu;
  if (exponent == 0) {  // zero or denormal: mantissa * 2^-24
    const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

bool is_weight_type(DType type) {
  switch (type) {
#define CASE(name) case DType::name:
    FRSPEC_WEIGHT_TYPES(CASE)
#undef CASE
    return true;
    default:
      return false;
  }
}

std::string_view weight_type_names() {
#define NAME(name) #name ", "
  constexpr std::string_view kNames = FRSPEC_WEIGHT_TYPES(NAME);
#undef NAME
  return kNames.substr(0, kNames.size() - 2);
}

void dequantize_row(DType type, const std::byte* row, float* out, std::int64_t cols) {
  if (for_each_block(type, row, cols, [out](const auto& block, std::int64_t at) { values_of(block, out + at); }))
    return;
  for_each_float(type, row, cols, [out](float value, std::int64_t i) { out[i] = value; });
}

bool is_finite_row(DType type, const std::byte* row, std::int64_t cols) {
  bool finite = true;
  const auto check = [&](const auto& block, std::int64_t) { finite &= is_finite_block(block); };
  if (for_each_block(type, row, cols, check)) return finite;
  unsigned bad = 0;  // no early end: the loop is to be vectorized
  if (type == DType::F32) {
    for (std::int64_t i = 0; i < cols; ++i) bad |= (read<std::uint32_t>(row, i) & 0x7F800000u) == 0x7F800000u;
  } else {
    if (type != DType::F16 && type != DType::BF16) fail("found a row of type ", dtype_name(type), " to check");
    const unsigned mask = type == DType::F16 ? 0x7C00u : 0x7F80u;
    for (std::int64_t i = 0; i < cols; ++i) bad |= (read<std::uint16_t>(row, i) & mask) == mask;
  }
  return bad == 0;
}

void check_weight_type(const WeightSource& source) {
  if (is_weight_type(source.type)) return;
  fail(source.file, ": tensor '", source.name, "' has type ", dtype_name(source.type), ", expected one of ",
       weight_type_names());
}

void check_finite_row(const WeightSource& source, std::int64_t row) {
  const std::size_t bytes = row_bytes(source.type, static_cast<std::size_t>(source.cols));
  if (is_finite_row(source.type, source.data + static_cast<std::size_t>(row) * bytes, source.cols)) return;
  fail(source.file, ": tensor '", source.name, "', row ", row, ": found a value that is NaN or infinite");
}

}  // namespace frspec
