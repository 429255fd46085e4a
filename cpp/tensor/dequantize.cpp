// Plain dequantization. Products are formed in the order of the reference implementation (GGUF's own), so the values
// are the same to the bit.
#include "tensor/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "base/error.h"
#include "tensor/quant.h"

namespace frspec {
namespace {

template <class Block>
const Block* blocks_of(const std::byte* row) {
  return reinterpret_cast<const Block*>(row);
}

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

bool is_finite_half(std::uint16_t bits) { return (bits & 0x7C00u) != 0x7C00u; }

// Calls use(block, index) for every block of a quantized row; false for other types.
template <class Use>
bool for_each_block(DType type, const std::byte* row, std::int64_t cols, Use&& use) {
  const auto run = [&](auto* blocks, int size) {
    for (std::int64_t b = 0; b < cols / size; ++b) use(blocks[b], b * size);
    return true;
  };
  switch (type) {
    case DType::Q8_0:
      return run(blocks_of<BlockQ8_0>(row), kQuantBlock);
    case DType::Q4_0:
      return run(blocks_of<BlockQ4_0>(row), kQuantBlock);
    case DType::Q4_1:
      return run(blocks_of<BlockQ4_1>(row), kQuantBlock);
    case DType::Q5_0:
      return run(blocks_of<BlockQ5_0>(row), kQuantBlock);
    case DType::Q5_1:
      return run(blocks_of<BlockQ5_1>(row), kQuantBlock);
    case DType::Q4_K:
      return run(blocks_of<BlockQ4_K>(row), kSuperBlock);
    case DType::Q5_K:
      return run(blocks_of<BlockQ5_K>(row), kSuperBlock);
    case DType::Q6_K:
      return run(blocks_of<BlockQ6_K>(row), kSuperBlock);
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
    } else {
      use(std::bit_cast<float>(std::uint32_t{read<std::uint16_t>(row, i)} << 16), i);
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
    case DType::F32:
    case DType::F16:
    case DType::BF16:
      return true;
    default:
      return for_each_block(type, nullptr, 0, [](const auto&, std::int64_t) {});
  }
}

void dequantize_row(DType type, const std::byte* row, float* out, std::int64_t cols) {
  if (for_each_block(type, row, cols, [out](const auto& block, std::int64_t at) { values_of(block, out + at); }))
    return;
  for_each_float(type, row, cols, [out](float value, std::int64_t i) { out[i] = value; });
}

bool is_finite_row(DType type, const std::byte* row, std::int64_t cols) {
  bool finite = true;
  const auto check = [&](const auto& block, std::int64_t) {
    finite &= is_finite_half(block.scale);
    if constexpr (requires { block.minimum; }) finite &= is_finite_half(block.minimum);
  };
  if (for_each_block(type, row, cols, check)) return finite;
  unsigned bad = 0;  // no early end: the loop is to be vectorized
  if (type == DType::F32) {
    for (std::int64_t i = 0; i < cols; ++i) bad |= (read<std::uint32_t>(row, i) & 0x7F800000u) == 0x7F800000u;
  } else {
    const unsigned mask = type == DType::F16 ? 0x7C00u : 0x7F80u;
    for (std::int64_t i = 0; i < cols; ++i) bad |= (read<std::uint16_t>(row, i) & mask) == mask;
  }
  return bad == 0;
}

void check_weight_type(const WeightSource& source) {
  if (is_weight_type(source.type)) return;
  fail(source.file, ": tensor '", source.name, "' has type ", dtype_name(source.type),
       ", expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K");
}

void check_finite_row(const WeightSource& source, std::int64_t row) {
  const std::size_t bytes = row_bytes(source.type, static_cast<std::size_t>(source.cols));
  if (is_finite_row(source.type, source.data + static_cast<std::size_t>(row) * bytes, source.cols)) return;
  fail(source.file, ": tensor '", source.name, "', row ", row, ": found a value that is NaN or infinite");
}

}  // namespace frspec
