// Picking and choosing: products of one row of x with rows of a table that are picked one by one, in GGUF's own form
// (a panel would bring fifteen neighbours along), and the columns of a row of scores that reach a threshold.
// Part of kernels.inl.

namespace {

using Bytes16 = std::uint8_t __attribute__((vector_size(16)));

inline Bytes16 load16(const std::uint8_t* p) {
  Bytes16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store16(std::uint8_t* p, Bytes16 v) { __builtin_memcpy(p, &v, sizeof v); }

// A row of x and the sums of every 16 of its elements: codes are multiplied as they are, and what a format subtracts
// from them or adds is put right by the sums.
struct PickedRow {
  const float* x;
  const float* sums;

  float sum32(std::int64_t block) const { return sums[2 * block] + sums[2 * block + 1]; }
};

// The sum of products of kCount unsigned codes, lane by lane.
template <int kCount>
FRSPEC_INLINE Floats dot_codes(const std::uint8_t* codes, const float* x) {
  Floats total = {};
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i += kLanes) total = multiply_add(load_unsigned(codes + i), load(x + i), total);
  return total;
}

// Bits of two bytes as sixteen bytes that are 0 or `value`.
inline Bytes16 spread_bits(const std::uint8_t* two, std::uint8_t value) {
  constexpr Bytes16 kBits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const std::uint64_t words[2] = {two[0] * 0x0101010101010101u, two[1] * 0x0101010101010101u};
  Bytes16 v;
  __builtin_memcpy(&v, words, sizeof v);
  const auto set = (v & kBits) != 0;
  Bytes16 mask;
  __builtin_memcpy(&mask, &set, sizeof mask);
  return mask & value;
}

// The codes of a block of 32 whose nibbles are split in halves.
template <class Block>
FRSPEC_INLINE void nibbles_of(const Block& block, std::uint8_t* codes) {
  const Bytes16 quants = load16(block.quants);
  Bytes16 low = quants & 0xF, high = quants >> 4;
  if constexpr (requires { block.high; }) {
    low |= spread_bits(block.high, 16);
    high |= spread_bits(block.high + 2, 16);
  }
  store16(codes, low);
  store16(codes + 16, high);
}

// w = scale (code - zero), or scale code + minimum where the block has one.
template <class Block, int kZero>
float dot_nibbles(const std::byte* row, const PickedRow& x, std::int64_t cols) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  Floats total = {};
  float rest = 0.0f;
  alignas(64) std::uint8_t codes[kQuantBlock];
  for (std::int64_t b = 0; b < cols / kQuantBlock; ++b) {
    nibbles_of(blocks[b], codes);
    const float scale = one_half(blocks[b].scale);
    total = multiply_add(dot_codes<kQuantBlock>(codes, x.x + b * kQuantBlock), splat(scale), total);
    if constexpr (requires { blocks[b].minimum; }) {
      rest += one_half(blocks[b].minimum) * x.sum32(b);
    } else {
      rest -= static_cast<float>(kZero) * scale * x.sum32(b);
    }
  }
  return sum(total) + rest;
}

float dot_q8_0(const std::byte* row, const PickedRow& x, std::int64_t cols) {
  const auto* blocks = reinterpret_cast<const BlockQ8_0*>(row);
  Floats total = {};
  for (std::int64_t b = 0; b < cols / kQuantBlock; ++b) {
    Floats part = {};
#pragma GCC unroll 8
    for (int i = 0; i < kQuantBlock; i += kLanes) {
      part = multiply_add(load_signed(blocks[b].quants + i), load(x.x + b * kQuantBlock + i), part);
    }
    total = multiply_add(part, splat(one_half(blocks[b].scale)), total);
  }
  return sum(total);
}

// The 6-bit scale and minimum of block b of Q4_K and Q5_K (quant.h).
inline float scale_of_k(const std::uint8_t* packed, int b) {
  return static_cast<float>(b < 4 ? packed[b] & 63 : (packed[b + 4] & 0xF) | (packed[b - 4] >> 6) << 4);
}
inline float minimum_of_k(const std::uint8_t* packed, int b) {
  return static_cast<float>(b < 4 ? packed[b + 4] & 63 : packed[b + 4] >> 4 | (packed[b] >> 6) << 4);
}

// Q4_K and Q5_K.
template <class Block>
float dot_k(const std::byte* row, const PickedRow& x, std::int64_t cols) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  Floats total = {};
  float rest = 0.0f;
  alignas(64) std::uint8_t codes[32];
  for (std::int64_t s = 0; s < cols / kSuperBlock; ++s) {
    const Block& block = blocks[s];
    const float scale = one_half(block.scale), minimum = one_half(block.minimum);
    for (int b = 0; b < 8; ++b) {
      for (int half = 0; half < 2; ++half) {
        const Bytes16 quants = load16(block.quants + 32 * (b / 2) + 16 * half);
        Bytes16 code = b % 2 == 0 ? quants & 0xF : quants >> 4;
        if constexpr (requires { block.high; }) {
          code |= (load16(block.high + 16 * half) >> static_cast<std::uint8_t>(b) & 1) << 4;
        }
        store16(codes + 16 * half, code);
      }
      const std::int64_t at = 8 * s + b;
      total = multiply_add(dot_codes<32>(codes, x.x + 32 * at), splat(scale * scale_of_k(block.packed, b)), total);
      rest -= minimum * minimum_of_k(block.packed, b) * x.sum32(at);
    }
  }
  return sum(total) + rest;
}

float dot_q6_k(const std::byte* row, const PickedRow& x, std::int64_t cols) {
  const auto* blocks = reinterpret_cast<const BlockQ6_K*>(row);
  Floats total = {};
  float rest = 0.0f;
  alignas(64) std::uint8_t codes[16];
  for (std::int64_t s = 0; s < cols / kSuperBlock; ++s) {
    const BlockQ6_K& block = blocks[s];
    const float scale = one_half(block.scale);
    for (int b = 0; b < 16; ++b) {
      const int half = b / 8, quarter = b % 8 / 2, lane = 16 * (b % 2);
      const Bytes16 low = load16(block.low + 64 * half + 32 * (quarter % 2) + lane);
      const Bytes16 high = load16(block.high + 32 * half + lane) >> static_cast<std::uint8_t>(2 * quarter) & 3;
      store16(codes, (quarter < 2 ? low & 0xF : low >> 4) | high << 4);
      const float own = scale * static_cast<float>(block.scales[b]);
      const std::int64_t at = 16 * s + b;
      total = multiply_add(dot_codes<16>(codes, x.x + 16 * at), splat(own), total);
      rest -= 32.0f * own * x.sums[at];
    }
  }
  return sum(total) + rest;
}

// Formats without blocks: `widen` makes kLanes floats of what lies at an address.
template <class Element, class Widen>
FRSPEC_INLINE float dot_floats(const std::byte* row, const float* x, std::int64_t cols, Widen&& widen) {
  const auto* w = reinterpret_cast<const Element*>(row);
  Floats total = {};
  std::int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) total = multiply_add(widen(w + i), load(x + i), total);
  if (i < cols) {
    Element part[kLanes] = {};
    __builtin_memcpy(part, w + i, static_cast<std::size_t>(cols - i) * sizeof(Element));
    total = multiply_add(widen(part), load_part(x + i, cols - i), total);
  }
  return sum(total);
}

inline Floats widen_bf16(const std::uint16_t* p) {
  using Halves = std::uint16_t __attribute__((vector_size(2 * kLanes)));
  Halves bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  const Ints wide = __builtin_convertvector(bits, Ints) << 16;
  Floats v;
  __builtin_memcpy(&v, &wide, sizeof v);
  return v;
}

// What is seldom a head: its numbers first.
float dot_plain(DType type, const std::byte* row, std::int64_t row_size, const float* x, std::int64_t cols) {
  alignas(64) float values[kSuperBlock];
  float total = 0.0f;
  for (std::int64_t at = 0; at < cols; at += kSuperBlock) {
    const std::int64_t count = cols - at < kSuperBlock ? cols - at : kSuperBlock;
    dequantize_row(type, row + row_size * at / cols, values, count);
    total += dot(values, x + at, count);
  }
  return total;
}

float dot_picked(DType type, const std::byte* row, std::int64_t row_size, const PickedRow& x, std::int64_t cols) {
  switch (type) {
    case DType::F32:
      return dot_floats<float>(row, x.x, cols, [](const float* p) { return load(p); });
    case DType::F16:
      return dot_floats<std::uint16_t>(row, x.x, cols, [](const std::uint16_t* p) { return load_half(p); });
    case DType::BF16:
      return dot_floats<std::uint16_t>(row, x.x, cols, [](const std::uint16_t* p) { return widen_bf16(p); });
    case DType::Q8_0:
      return dot_q8_0(row, x, cols);
    case DType::Q4_0:
      return dot_nibbles<BlockQ4_0, 8>(row, x, cols);
    case DType::Q4_1:
      return dot_nibbles<BlockQ4_1, 0>(row, x, cols);
    case DType::Q5_0:
      return dot_nibbles<BlockQ5_0, 16>(row, x, cols);
    case DType::Q5_1:
      return dot_nibbles<BlockQ5_1, 0>(row, x, cols);
    case DType::Q4_K:
      return dot_k<BlockQ4_K>(row, x, cols);
    case DType::Q5_K:
      return dot_k<BlockQ5_K>(row, x, cols);
    case DType::Q6_K:
      return dot_q6_k(row, x, cols);
    default:
      return dot_plain(type, row, row_size, x.x, cols);
  }
}

void dot_rows(const RowProduct& product) {
  constexpr std::int64_t kFetched = 1024;  // bytes of the next row: the processor sees the rest coming itself
  const std::int64_t fetched = product.row_bytes < kFetched ? product.row_bytes : kFetched;
  for (std::int64_t i = 0; i < product.count; ++i) {
    const std::byte* next = product.table + product.rows[i + 1 < product.count ? i + 1 : i] * product.row_bytes;
    for (std::int64_t at = 0; at < fetched; at += kLine) __builtin_prefetch(next + at, 0, 3);
    product.out[i] = dot_picked(product.type, product.table + product.rows[i] * product.row_bytes, product.row_bytes,
                                {product.x, product.sums}, product.cols);
  }
}

void sums_of_16(float* sums, const float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n / 16; ++i) {
    Floats total = {};
    for (int lane = 0; lane < 16; lane += kLanes) total += load(x + 16 * i + lane);
    sums[i] = sum(total);
  }
}

std::int64_t columns_from(std::int32_t* columns, std::int64_t room, const float* x, std::int64_t n, float threshold) {
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const Floats value = load_up_to(x + i, n - i);
    std::uint32_t lanes = lanes_from(value, threshold);
    if (i + kLanes > n) lanes &= (1u << (n - i)) - 1u;
    for (; lanes != 0; lanes &= lanes - 1) {
      if (found < room) columns[found] = static_cast<std::int32_t>(i + __builtin_ctz(lanes));
      ++found;
    }
  }
  return found;
}

}  // namespace
