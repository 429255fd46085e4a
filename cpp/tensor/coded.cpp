// What the bits of types say that are brought to another form. In Coded, a code is a number's place in the codebook
// entry, with the sign in the bit above (IQ2: 8, 25, 43; IQ3: eight magnitudes), or one of a few numbers (IQ1, TQ).
#include "tensor/coded.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "tensor/codebooks.h"
#include "tensor/dequantize.h"

namespace frspec {
namespace {

constexpr std::int8_t kIq2Values[16] = {8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43, 0, 0, 0, 0, 0};
constexpr std::int8_t kIq3xxsValues[16] = {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62};
constexpr std::int8_t kIq3sValues[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
constexpr std::int8_t kIq1Values[16] = {-7, 1, 9, -9, -1, 7};  // 8 d + 1 and 8 d - 1 for a digit d of -1, 0, 1
constexpr std::int8_t kDigits[16] = {-1, 0, 1, 2};
constexpr std::int8_t kQ3Values[16] = {-4, -3, -2, -1, 0, 1, 2, 3};

void set_values(BlockCoded& to, const std::int8_t (&values)[16]) { std::copy_n(values, 16, to.values); }

void set_code(BlockCoded& to, int i, unsigned code) {
  std::uint8_t& pair = to.quants[32 * (i / 64) + i % 32];
  pair = static_cast<std::uint8_t>(i / 32 % 2 == 0 ? (pair & 0xF0) | code : (pair & 0x0F) | code << 4);
}

// Elements [at, at + 8): the places of one entry, or of two entries of four, and a bit for each that is negative.
void set_eight(BlockCoded& to, int at, unsigned places, int bits, unsigned signs) {
  for (int k = 0; k < 8; ++k) {
    const unsigned place = places >> (bits * k) & ((1u << bits) - 1);
    set_code(to, at + k, place | (signs >> k & 1u) << 3);
  }
}
unsigned two_of_four(const std::uint16_t* book, unsigned first, unsigned second) {
  return book[first] | unsigned{book[second]} << 12;
}

// Seven signs; the eighth makes their number even.
unsigned even_signs(unsigned seven) { return seven | (std::popcount(seven) & 1u) << 7; }

unsigned word_at(const std::uint8_t* p) {
  return p[0] | unsigned{p[1]} << 8 | unsigned{p[2]} << 16 | unsigned{p[3]} << 24;
}

unsigned nibble_of(const std::uint8_t* bytes, int i) { return bytes[i / 2] >> (4 * (i % 2)) & 15u; }

std::int8_t odd(unsigned s) { return static_cast<std::int8_t>(2 * s + 1); }

void code(const BlockIQ2_XXS& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale) / 8;
  set_values(to, kIq2Values);
  for (int b = 0; b < 8; ++b) {
    const std::uint8_t* entries = block.quants + 8 * b;
    const unsigned word = word_at(entries + 4);
    to.scales[2 * b] = to.scales[2 * b + 1] = odd(word >> 28);
    for (int l = 0; l < 4; ++l) {
      set_eight(to, 32 * b + 8 * l, kCodebookIQ2_XXS[entries[l]], 2, even_signs(word >> (7 * l) & 127));
    }
  }
}

void code(const BlockIQ2_XS& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale) / 8;
  set_values(to, kIq2Values);
  for (int i = 0; i < 16; ++i) to.scales[i] = odd(nibble_of(block.scales, i));
  for (int g = 0; g < 32; ++g) {
    set_eight(to, 8 * g, kCodebookIQ2_XS[block.quants[g] & 511], 2, even_signs(block.quants[g] >> 9));
  }
}

void code(const BlockIQ2_S& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale) / 8;
  set_values(to, kIq2Values);
  for (int i = 0; i < 16; ++i) to.scales[i] = odd(nibble_of(block.scales, i));
  for (int g = 0; g < 32; ++g) {
    const unsigned entry = block.quants[g] | (block.high[g / 4] >> (2 * (g % 4)) & 3u) << 8;
    set_eight(to, 8 * g, kCodebookIQ2_S[entry], 2, block.signs[g]);
  }
}

void code(const BlockIQ3_XXS& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale) / 4;
  set_values(to, kIq3xxsValues);
  for (int b = 0; b < 8; ++b) {
    const unsigned word = word_at(block.signs + 4 * b);
    to.scales[2 * b] = to.scales[2 * b + 1] = odd(word >> 28);
    for (int l = 0; l < 4; ++l) {
      const std::uint8_t* entries = block.quants + 8 * b + 2 * l;
      set_eight(to, 32 * b + 8 * l, two_of_four(kCodebookIQ3_XXS, entries[0], entries[1]), 3,
                even_signs(word >> (7 * l) & 127));
    }
  }
}

void code(const BlockIQ3_S& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale);
  set_values(to, kIq3sValues);
  for (int b = 0; b < 8; ++b) {
    to.scales[2 * b] = to.scales[2 * b + 1] = odd(nibble_of(block.scales, b));
    for (int l = 0; l < 4; ++l) {
      const auto entry = [&](int i) { return block.quants[8 * b + i] | (block.high[b] >> i & 1u) << 8; };
      set_eight(to, 32 * b + 8 * l, two_of_four(kCodebookIQ3_S, entry(2 * l), entry(2 * l + 1)), 3,
                block.signs[4 * b + l]);
    }
  }
}

// Digits of an entry of IQ1, less or more an eighth.
void set_digits(BlockCoded& to, int at, unsigned digits, bool less) {
  for (int k = 0; k < 8; ++k) set_code(to, at + k, (digits >> (2 * k) & 3) + (less ? 3 : 0));
}

void code(const BlockIQ1_S& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale) / 8;
  set_values(to, kIq1Values);
  for (int b = 0; b < 8; ++b) {
    const unsigned high = block.high[b];
    to.scales[2 * b] = to.scales[2 * b + 1] = odd(high >> 12 & 7);
    for (int l = 0; l < 4; ++l) {
      const unsigned entry = block.quants[4 * b + l] | (high >> (3 * l) & 7) << 8;
      set_digits(to, 32 * b + 8 * l, kCodebookIQ1[entry], (high >> 15) != 0);
    }
  }
}

void code(const BlockIQ1_M& block, BlockCoded& to) {
  to.scale = half_to_float(iq1_m_scale(block)) / 8;
  set_values(to, kIq1Values);
  for (int i = 0; i < 16; ++i) to.scales[i] = odd(block.scales[i / 4] >> (3 * (i % 4)) & 7u);
  for (int g = 0; g < 32; ++g) {
    const unsigned high = nibble_of(block.high, g);
    set_digits(to, 8 * g, kCodebookIQ1[block.quants[g] | (high & 7) << 8], (high & 8) != 0);
  }
}

void code(const BlockTQ2_0& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale);
  set_values(to, kDigits);
  std::fill_n(to.scales, 16, std::int8_t{1});
  for (int i = 0; i < kSuperBlock; ++i) {
    set_code(to, i, block.quants[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3u);
  }
}

// Five digits of a byte, four in `high`: digit n is what a multiplication by 3^n has moved above the point.
void code(const BlockTQ1_0& block, BlockCoded& to) {
  constexpr unsigned kPowers[5] = {1, 3, 9, 27, 81};
  to.scale = half_to_float(block.scale);
  set_values(to, kDigits);
  std::fill_n(to.scales, 16, std::int8_t{1});
  for (int i = 0; i < kSuperBlock; ++i) {
    const bool first = i < 160, second = i < 240;
    const int n = first ? i / 32 : second ? (i - 160) / 16 : (i - 240) / 4;
    const unsigned byte = first ? block.quants[i % 32] : second ? block.quants[32 + i % 16] : block.high[i % 4];
    set_code(to, i, (byte * kPowers[n] % 256 * 3) >> 8);
  }
}

void code(const BlockQ3_K& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale);
  set_values(to, kQ3Values);
  for (int b = 0; b < 16; ++b) to.scales[b] = static_cast<std::int8_t>(q3_scale(block.packed, b));
  for (int i = 0; i < kSuperBlock; ++i) {
    const unsigned low = block.quants[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3u;
    set_code(to, i, low | (block.high[i % 32] >> (i / 32) & 1u) << 2);
  }
}

void code(const BlockIQ4_XS& block, BlockCoded& to) {
  to.scale = half_to_float(block.scale);
  set_values(to, kIq4Values);
  for (int b = 0; b < 16; ++b) to.scales[b] = static_cast<std::int8_t>(iq4_scale(block, b / 2));
  for (int i = 0; i < kSuperBlock; ++i) {
    const std::uint8_t pair = block.quants[16 * (i / 32) + i % 16];
    set_code(to, i, i % 32 < 16 ? pair & 15u : pair >> 4);
  }
}

// A narrow block as several of Q4_0 from `to` on, all with its scale: code q stands for step * q - 1.
template <class Block>
void widen(const Block& block, int bits, int step, BlockQ4_0* to) {
  const auto nibble = [&](int i) {
    const int code = block.quants[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1);
    return static_cast<unsigned>(step * code - 1 + 8);
  };
  for (int at = 0; at < Block::kElements; at += kQuantBlock, ++to) {
    to->scale = block.scale;
    for (int i = 0; i < kQuantBlock / 2; ++i) {
      to->quants[i] = static_cast<std::uint8_t>(nibble(at + i) | nibble(at + i + kQuantBlock / 2) << 4);
    }
  }
}
void code(const BlockQ2_0& block, BlockQ4_0& first) { widen(block, 2, 1, &first); }
void code(const BlockQ1_0& block, BlockQ4_0& first) { widen(block, 1, 2, &first); }

template <class Block, class Form>
void code_blocks(const std::byte* row, std::byte* to, std::int64_t cols) {
  const auto* blocks = reinterpret_cast<const Block*>(row);
  auto* forms = reinterpret_cast<Form*>(to);
  for (std::int64_t b = 0; b < cols / Block::kElements; ++b) {
    code(blocks[b], forms[b * (Block::kElements / Form::kElements)]);
  }
}

}  // namespace

void code_row(DType type, const std::byte* row, std::byte* to, std::int64_t cols) {
  switch (type) {
#define CASE(name)  \
  case DType::name: \
    return code_blocks<Block##name, BlockCoded>(row, to, cols);
    FRSPEC_CODEBOOK_TYPES(CASE)
    CASE(Q3_K)
    CASE(IQ4_XS)
#undef CASE
#define CASE(name)  \
  case DType::name: \
    return code_blocks<Block##name, BlockQ4_0>(row, to, cols);
    FRSPEC_NARROW_TYPES(CASE)
#undef CASE
    default:
      fail("found a row of type ", dtype_name(type), ", which has no coded form");
  }
}

}  // namespace frspec
