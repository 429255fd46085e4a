// A group of a panel, ready to multiply: byte codes, f32 scales and minima, in cache and shared by all rows of x.
//
// Where kUnsignedCodes, a format with an offset (w = scale * (q - zero)) gives unsigned codes moved so that the offset
// is 128: the product subtracts 128 times the sum of x's codes instead. Elsewhere codes are q - zero, signed. Both are
// whole numbers, and scales differ by powers of two: the results have the same bits.

namespace {

using Words = std::uint16_t __attribute__((vector_size(4 * kLanes)));
using Bytes = std::int8_t __attribute__((vector_size(4 * kLanes)));

struct Unpacked {
  const std::byte* codes;  // one line per dword of k
  float* scales;           // (blocks, 16), for blocks of 16 elements twice as many
  float* minima;           // (blocks, 16), to be added; where the format has them
};

template <DType kType>
struct Format {
  static constexpr bool kHalfBlocks = kType == DType::Q6_K;  // 16 elements share a scale
  static constexpr bool kMinima =
      kType == DType::Q4_1 || kType == DType::Q5_1 || kType == DType::Q4_K || kType == DType::Q5_K;
  static constexpr bool kSuper = kType == DType::Q4_K || kType == DType::Q5_K || kType == DType::Q6_K;
  static constexpr int kBits = kType == DType::Q8_0   ? 8
                               : kType == DType::Q6_K ? 6
                               : kType == DType::Q4_0 || kType == DType::Q4_1 || kType == DType::Q4_K ? 4
                                                                                                      : 5;
  // Formats without minima are centred: zero is half the range.
  static constexpr int kShift = kUnsignedCodes && !kMinima ? 8 - kBits : 0;
  static constexpr int kZero = kUnsignedCodes || kMinima ? 0 : 1 << (kBits - 1);
};

inline Words load_words(const std::byte* p) {
  Words v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// Bits of each byte, moved from position `from` to position `to`: `mask` is the byte that keeps them there.
template <int kFrom, int kTo>
inline Words move_bits(Words v, int mask) {
  const auto both = static_cast<std::uint16_t>(mask * 0x0101);
  if constexpr (kFrom < kTo) {
    return (v << (kTo - kFrom)) & both;
  } else {
    return (v >> (kFrom - kTo)) & both;
  }
}

template <int kZero>
inline void store_codes(std::byte* to, Words codes) {
  Bytes bytes;
  __builtin_memcpy(&bytes, &codes, sizeof bytes);
  if constexpr (kZero != 0) bytes -= static_cast<std::int8_t>(kZero);
  __builtin_memcpy(to, &bytes, sizeof bytes);
}

// The nibbles of a line, low or high, with `kBits - 4` more bits of `more` from position `kFrom` on.
template <DType kType, bool kHigh, int kFrom>
inline void unpack_line(std::byte* to, const std::byte* line, const std::byte* more) {
  using F = Format<kType>;
  for (int at = 0; at < kLine; at += static_cast<int>(sizeof(Words))) {
    Words codes = move_bits<kHigh ? 4 : 0, F::kShift>(load_words(line + at), 0xF << F::kShift);
    if constexpr (F::kBits > 4) {
      constexpr int kMask = ((1 << (F::kBits - 4)) - 1) << (4 + F::kShift);
      codes |= move_bits<kFrom, 4 + F::kShift>(load_words(more + at), kMask);
    }
    store_codes<F::kZero>(to + at, codes);
  }
}

// Calls step.template operator()<0>(), <1>, ... : the compiler needs the shifts as constants.
template <int kCount, int kFirst = 0, class Step>
inline void unrolled(Step&& step) {
  if constexpr (kFirst < kCount) {
    step.template operator()<kFirst>();
    unrolled<kCount, kFirst + 1>(step);
  }
}

using SmallUnsigned = std::uint8_t __attribute__((vector_size(kLanes)));

// kLanes whole numbers of 8 bits: Narrow is SmallInts or SmallUnsigned.
template <class Narrow>
inline Floats load_numbers(const std::byte* p) {
  Narrow v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(__builtin_convertvector(v, Ints), Floats);
}

// Q4_0, Q4_1, Q5_0, Q5_1: low nibbles are the first four dwords of a block, high nibbles the last four.
template <DType kType>
inline void unpack_small_codes(std::byte* codes, const std::byte* quants, const std::byte* high, std::int64_t blocks) {
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::byte* to = codes + b * kBlockSteps * kLine;
    const std::byte* more = high + b * kLine;
    unrolled<4>([&]<int kStep>() {
      const std::byte* line = quants + (4 * b + kStep) * kLine;
      unpack_line<kType, false, kStep>(to + kStep * kLine, line, more);
      unpack_line<kType, true, kStep + 4>(to + (kStep + 4) * kLine, line, more);
    });
  }
}

// Q4_K, Q5_K: 8 lines hold block 2 c in their low nibbles and block 2 c + 1 in their high ones.
template <DType kType>
inline void unpack_k_codes(std::byte* codes, const std::byte* quants, const std::byte* high) {
  unrolled<4>([&]<int kPair>() {
    for (int s = 0; s < kBlockSteps; ++s) {
      const std::byte* line = quants + (8 * kPair + s) * kLine;
      std::byte* to = codes + (16 * kPair + s) * kLine;
      unpack_line<kType, false, 2 * kPair>(to, line, high + s * kLine);
      unpack_line<kType, true, 2 * kPair + 1>(to + kBlockSteps * kLine, line, high + s * kLine);
    }
  });
}

// Q6_K: of each half, lines 0-7 hold blocks 0 and 2, lines 8-15 blocks 1 and 3; bits 2 q of `high` are block q's.
inline void unpack_q6_codes(std::byte* codes, const std::byte* quants, const std::byte* high) {
  for (int half = 0; half < 2; ++half) {
    std::byte* to = codes + half * 32 * kLine;
    for (int s = 0; s < kBlockSteps; ++s) {
      const std::byte* line = quants + (16 * half + s) * kLine;
      const std::byte* more = high + (8 * half + s) * kLine;
      unpack_line<DType::Q6_K, false, 0>(to + s * kLine, line, more);
      unpack_line<DType::Q6_K, false, 2>(to + (8 + s) * kLine, line + 8 * kLine, more);
      unpack_line<DType::Q6_K, true, 4>(to + (16 + s) * kLine, line, more);
      unpack_line<DType::Q6_K, true, 6>(to + (24 + s) * kLine, line + 8 * kLine, more);
    }
  }
}

// The scales of a group; a shift of the codes is undone here.
template <DType kType>
inline void unpack_scales(const std::byte* header, std::int64_t blocks, float* scales, float* minima) {
  using F = Format<kType>;
  constexpr float kUnshift = 1.0f / (1 << F::kShift);
  for (int i = 0; i < kPanel; i += kLanes) {
    const auto halves = [&](std::int64_t run) { return load_half(header + 2 * (run * kPanel + i)); };
    if constexpr (!F::kSuper) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        store(scales + b * kPanel + i, halves(b) * kUnshift);
        if constexpr (F::kMinima) store(minima + b * kPanel + i, halves(blocks + b));
      }
    } else if constexpr (F::kMinima) {
      const Floats scale = halves(0), minimum = -halves(1);
      const std::byte* whole = header + 4 * kPanel + i;
      for (int b = 0; b < 8; ++b) {
        store(scales + b * kPanel + i, scale * load_numbers<SmallUnsigned>(whole + b * kPanel));
        store(minima + b * kPanel + i, minimum * load_numbers<SmallUnsigned>(whole + (8 + b) * kPanel));
      }
    } else {
      const Floats scale = halves(0) * kUnshift;
      const std::byte* whole = header + 2 * kPanel + i;
      for (int b = 0; b < 16; ++b) {
        store(scales + b * kPanel + i, scale * load_numbers<SmallInts>(whole + b * kPanel));
      }
    }
  }
}

// `codes` is room for the codes of a group; Q8_0 needs it only where codes are signed.
template <DType kType>
inline Unpacked unpack_group(const std::byte* group, std::int64_t blocks, std::byte* codes, float* scales,
                             float* minima) {
  const GroupLayout layout = group_layout(kType, blocks);
  const std::byte* quants = group + layout.quants;
  const std::byte* high = group + layout.high;
  unpack_scales<kType>(group, blocks, scales, minima);
  if constexpr (kType == DType::Q8_0) {
    if constexpr (kUnsignedCodes) return {quants, scales, minima};
    for (std::int64_t at = 0; at < blocks * kBlockSteps * kLine; at += static_cast<std::int64_t>(sizeof(Words))) {
      store_codes<0>(codes + at, load_words(quants + at) ^ std::uint16_t{0x8080});
    }
  } else if constexpr (kType == DType::Q6_K) {
    unpack_q6_codes(codes, quants, high);
  } else if constexpr (Format<kType>::kSuper) {
    unpack_k_codes<kType>(codes, quants, high);
  } else {
    unpack_small_codes<kType>(codes, quants, high, blocks);
  }
  return {codes, scales, minima};
}

}  // namespace
