// A group of a panel, ready to multiply: byte codes, f32 scales and minima, in cache and shared by all rows of x.
//
// Where codes are unsigned (kUnsignedCodes says what dot_bytes wants), a format with an offset (w = scale * (q - zero))
// gives unsigned codes, and the product subtracts zero times the sum of x's codes instead. Codes may be moved up, so
// that zero is 128 for every format. Elsewhere codes are q - zero, signed. Both are whole numbers, and scales differ by
// powers of two: the results have the same bits.

namespace {

using Words = std::uint16_t __attribute__((vector_size(4 * kLanes)));
using Bytes = std::int8_t __attribute__((vector_size(4 * kLanes)));

struct Unpacked {
  const std::byte* codes;  // one line per dword of k
  float* scales;           // (blocks, 16), for blocks of 16 elements twice as many
  float* minima;           // (blocks, 16), to be added; where the format has them
};

// Whether the codes of a format are unsigned here. Products of small codes can be added in pairs of 16 bits where those
// are unsigned and as small as they come; Q8_0's are not small.
template <DType kType>
constexpr bool kUnsignedOf = kUnsignedCodes || (FRSPEC_PAIRS && kType != DType::Q8_0);

template <DType kType, bool kUnsigned = kUnsignedOf<kType>>
struct Format {
  static constexpr bool kUnsignedHere = kUnsigned;
  static constexpr bool kHalfBlocks = kType == DType::Q6_K;  // 16 elements share a scale
  static constexpr bool kMinima =
      kType == DType::Q4_1 || kType == DType::Q5_1 || kType == DType::Q4_K || kType == DType::Q5_K;
  static constexpr bool kSuper = kType == DType::Q4_K || kType == DType::Q5_K || kType == DType::Q6_K;
  static constexpr int kBits = kType == DType::Q8_0                                                   ? 8
                               : kType == DType::Q6_K                                                 ? 6
                               : kType == DType::Q4_0 || kType == DType::Q4_1 || kType == DType::Q4_K ? 4
                                                                                                      : 5;
  // Formats without minima are centred: zero is half the range, moved up to 128 unless codes must be small.
  static constexpr int kShift = kUnsigned && !kMinima && !FRSPEC_PAIRS ? 8 - kBits : 0;
  static constexpr int kZero = kUnsigned || kMinima ? 0 : 1 << (kBits - 1);
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

// Calls step.template operator()<0>(), <1>, ... : the compiler needs the shifts as constants.
template <int kCount, int kFirst = 0, class Step>
FRSPEC_INLINE void unrolled(Step&& step) {
  if constexpr (kFirst < kCount) {
    step.template operator()<kFirst>();
    unrolled<kCount, kFirst + 1>(step);
  }
}

// The codes of one dword of k: step `s` of block `b` of a group, `at` bytes into the line. What decides on shifts is a
// constant: of K-quants the block (kBlock == b, kStep is not looked at), of the others the step (kStep == s).
template <DType kType, int kBlock, int kStep, bool kUnsigned = kUnsignedOf<kType>>
FRSPEC_INLINE Words codes_at(const std::byte* quants, const std::byte* high, std::int64_t b, int s, int at) {
  using F = Format<kType, kUnsigned>;
  if constexpr (kType == DType::Q8_0) {
    const Words codes = load_words(quants + (b * kBlockSteps + s) * kLine + at);
    return kUnsigned ? codes : codes ^ std::uint16_t{0x8080};
  } else {
    constexpr int kQuarter = kBlock % 4, kHalf = kBlock / 4;
    // Which line, whether its high nibbles, and where the bits above the nibble are: see quant.h and panel.h.
    constexpr bool kHigh = !F::kSuper ? kStep >= 4 : kType == DType::Q6_K ? kQuarter >= 2 : kBlock % 2 == 1;
    constexpr int kFrom = !F::kSuper ? kStep : kType == DType::Q6_K ? 2 * kQuarter : kBlock;
    const std::int64_t line = !F::kSuper             ? 4 * b + s % 4
                              : kType == DType::Q6_K ? 16 * kHalf + 8 * (kQuarter % 2) + s
                                                     : 8 * (kBlock / 2) + s;
    Words codes = move_bits<kHigh ? 4 : 0, F::kShift>(load_words(quants + line * kLine + at), 0xF << F::kShift);
    if constexpr (F::kBits > 4) {
      constexpr int kMask = ((1 << (F::kBits - 4)) - 1) << (4 + F::kShift);
      const std::int64_t more = !F::kSuper ? b : kType == DType::Q6_K ? 8 * kHalf + s : s;
      codes |= move_bits<kFrom, 4 + F::kShift>(load_words(high + more * kLine + at), kMask);
    }
    if constexpr (F::kZero != 0) {
      Bytes bytes;
      __builtin_memcpy(&bytes, &codes, sizeof bytes);
      bytes -= static_cast<std::int8_t>(F::kZero);
      __builtin_memcpy(&codes, &bytes, sizeof codes);
    }
    return codes;
  }
}

// Scales and minima of lanes [i, i + kLanes) of a group. A shift of the codes is undone here.
template <DType kType, bool kUnsigned = kUnsignedOf<kType>>
class GroupScales {
 public:
  GroupScales(const std::byte* header, std::int64_t blocks, int i) : header_(header), blocks_(blocks), lane_(i) {
    if constexpr (F::kSuper) super_ = halves(0) * kUnshift;
    if constexpr (F::kSuper && F::kMinima) super_minimum_ = -halves(1);
  }

  // Of block b; of Q6_K: of half block b.
  Floats scale(std::int64_t b) const {
    if constexpr (!F::kSuper) return halves(b) * kUnshift;
    if constexpr (F::kMinima) return super_ * load_unsigned(header_ + (4 + b) * kPanel + lane_);
    return super_ * load_signed(header_ + (2 + b) * kPanel + lane_);
  }
  // What is to be added per unit of x; of formats that have it.
  Floats minimum(std::int64_t b) const {
    if constexpr (!F::kSuper) return halves(blocks_ + b);
    return super_minimum_ * load_unsigned(header_ + (4 + 8 + b) * kPanel + lane_);
  }

 private:
  using F = Format<kType, kUnsigned>;
  static constexpr float kUnshift = 1.0f / (1 << F::kShift);

  Floats halves(std::int64_t run) const { return load_half(header_ + 2 * (run * kPanel + lane_)); }

  const std::byte* header_;
  std::int64_t blocks_;
  int lane_;
  Floats super_ = {}, super_minimum_ = {};
};

// Calls use.operator()<kBlock>(b) for each block: with constants where the format wants them, and then for whole
// groups only, of which K-quants consist.
template <DType kType, class Use>
FRSPEC_INLINE void for_each_block(std::int64_t blocks, Use&& use) {
  if constexpr (Format<kType>::kSuper) {
    unrolled<kGroup / 32>([&]<int kBlock>() FRSPEC_INLINED { use.template operator()<kBlock>(std::int64_t{kBlock}); });
  } else {
    for (std::int64_t b = 0; b < blocks; ++b) use.template operator()<0>(b);
  }
}

// `codes` is room for the codes of a group; Q8_0 needs it only where codes are signed.
template <DType kType, bool kUnsigned = kUnsignedOf<kType>>
inline Unpacked unpack_group(const std::byte* group, std::int64_t blocks, std::byte* codes, float* scales,
                             float* minima) {
  using F = Format<kType, kUnsigned>;
  constexpr int kWidth = static_cast<int>(sizeof(Words));
  const GroupLayout layout = group_layout(kType, blocks);
  for (int i = 0; i < kPanel; i += kLanes) {
    const GroupScales<kType, kUnsigned> of(group, blocks, i);
    for (std::int64_t b = 0; b < blocks * (F::kHalfBlocks ? 2 : 1); ++b) store(scales + b * kPanel + i, of.scale(b));
    if constexpr (F::kMinima) {
      for (std::int64_t b = 0; b < blocks; ++b) store(minima + b * kPanel + i, of.minimum(b));
    }
  }
  if constexpr (kType == DType::Q8_0 && kUnsigned) return {group + layout.quants, scales, minima};
  for_each_block<kType>(blocks, [&]<int kBlock>(std::int64_t b) FRSPEC_INLINED {
    const auto step = [&]<int kStep>(int s) FRSPEC_INLINED {
      std::byte* to = codes + (b * kBlockSteps + s) * kLine;
      for (int at = 0; at < kLine; at += kWidth) {
        const Words v = codes_at<kType, kBlock, kStep, kUnsigned>(group + layout.quants, group + layout.high, b, s, at);
        __builtin_memcpy(to + at, &v, sizeof v);
      }
    };
    if constexpr (F::kSuper) {
      for (int s = 0; s < kBlockSteps; ++s) step.template operator()<0>(s);
    } else {
      unrolled<kBlockSteps>([&]<int kStep>() FRSPEC_INLINED { step.template operator()<kStep>(kStep); });
    }
  });
  return {codes, scales, minima};
}

}  // namespace
