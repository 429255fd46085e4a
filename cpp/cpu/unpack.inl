// A group of a panel, ready to multiply: byte codes, f32 scales and minima, in cache and shared by all rows of x.
//
// Where codes are unsigned (kUnsignedCodes says what dot_bytes wants), a format with an offset (w = scale * (q - zero))
// gives unsigned codes, and the product subtracts zero times the sum of x's codes instead. Codes may be moved up, so
// that zero is 128 for every format. Elsewhere codes are q - zero, signed. Both are whole numbers, and scales differ by
// powers of two: the results have the same bits.

namespace {

using Words = std::uint16_t __attribute__((vector_size(4 * kLanes)));
using Bytes = std::int8_t __attribute__((vector_size(4 * kLanes)));
using FewBytes = std::uint8_t __attribute__((vector_size(kLanes)));

struct Unpacked {
  const std::byte* codes;  // one line per dword of k
  float* scales;           // (blocks, 16), for blocks of 16 elements twice as many
  float* minima;           // as scales, to be added; where the format has them
};

// Whether the codes of a format are unsigned here. Products of small codes can be added in pairs of 16 bits where those
// are unsigned and as small as they come; those of 8 bits are not small.
template <DType kType>
constexpr bool kUnsignedOf = kUnsignedCodes || (FRSPEC_PAIRS && panel_format(kType).bits < 8);

template <DType kType, bool kUnsigned = kUnsignedOf<kType>>
struct Format {
  static constexpr PanelFormat kPanelFormat = panel_format(kType);
  static constexpr bool kUnsignedHere = kUnsigned;
  static constexpr bool kHalfBlocks = kPanelFormat.shared == 16;
  static constexpr bool kMinima = kPanelFormat.minima;
  static constexpr bool kTable = kPanelFormat.table;
  static constexpr bool kSuper = kPanelFormat.block == kGroup;
  // Whether the block decides on where its codes are, else the step.
  static constexpr bool kByBlock = kSuper && kType != DType::IQ4_XS;
  static constexpr int kBits = kPanelFormat.bits;
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

inline Ints as_ints(Words v) {
  Ints bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}

// The numbers of a table as codes.
template <DType kType, bool kUnsigned>
struct CodeTable {
  using F = Format<kType, kUnsigned>;
  constexpr explicit CodeTable(const std::int8_t* values) {
    constexpr int kUp = kUnsigned ? 1 << (F::kBits - 1) : 0;
    for (int i = 0; i < 16; ++i) codes[i] = static_cast<std::uint8_t>((values[i] + kUp) << F::kShift);
  }
  alignas(16) std::uint8_t codes[16] = {};
};
template <DType kType, bool kUnsigned>
constexpr CodeTable<kType, kUnsigned> kCodeTable(kType == DType::MXFP4 ? kMxfp4Values : kIq4Values);

// The 16 bytes at `table` in every part of 16 bytes of a vector.
template <int kWidth = kLanes>
inline auto spread_table(const void* table) {
  using Quarter = std::int32_t __attribute__((vector_size(16)));
  Quarter part;
  __builtin_memcpy(&part, table, sizeof part);
  if constexpr (kWidth == 16) {
    return __builtin_shufflevector(part, part, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
  } else if constexpr (kWidth == 8) {
    return __builtin_shufflevector(part, part, 0, 1, 2, 3, 0, 1, 2, 3);
  } else {
    return part;
  }
}

// The codes for which nibbles stand. `values`: of Coded, those of the group.
template <DType kType, bool kUnsigned>
FRSPEC_INLINE Words look_up_codes(Words nibbles, const std::byte* values) {
  constexpr bool kOwn = kType == DType::Coded;
  const void* numbers = values;
  if constexpr (!kOwn) numbers = kCodeTable<kType, kUnsigned>.codes;
  Ints table = spread_table(numbers);
  if constexpr (kOwn && kUnsigned) table ^= static_cast<std::int32_t>(0x80808080u);
  const Ints found = look_up(table, as_ints(nibbles));
  Words codes;
  __builtin_memcpy(&codes, &found, sizeof codes);
  return codes;
}

// The codes of one dword of k: step `s` of block `b` of a group, `at` bytes into the line. What decides on shifts is a
// constant: the block (kBlock == b, kStep is not looked at), or the step (kStep == s): see Format::kByBlock.
template <DType kType, int kBlock, int kStep, bool kUnsigned = kUnsignedOf<kType>>
FRSPEC_INLINE Words codes_at(const std::byte* quants, const std::byte* high, std::int64_t b, int s, int at) {
  using F = Format<kType, kUnsigned>;
  constexpr PanelFormat kFormat = F::kPanelFormat;
  constexpr int kQuarter = kBlock % 4, kHalf = kBlock / 4;
  if constexpr (kFormat.quants == 8) {
    const Words codes = load_words(quants + (b * kBlockSteps + s) * kLine + at);
    return kUnsigned ? codes : codes ^ std::uint16_t{0x8080};
  } else {
    // Where the low bits are, and where those above them: see quant.h and panel.h.
    constexpr int kLow = kFormat.quants == 2    ? 2 * kQuarter
                         : kType == DType::Q6_K ? kQuarter / 2 * 4
                         : F::kByBlock          ? kBlock % 2 * 4
                                                : kStep / 4 * 4;
    constexpr int kFrom = !F::kByBlock ? kStep : kType == DType::Q6_K ? 2 * kQuarter : kBlock;
    const std::int64_t line = kFormat.quants == 2    ? 8 * kHalf + s
                              : kType == DType::Q6_K ? 16 * kHalf + 8 * (kQuarter % 2) + s
                              : F::kByBlock          ? 8 * (kBlock / 2) + s
                                                     : 4 * b + s % 4;
    constexpr int kShift = F::kTable ? 0 : F::kShift;
    Words codes =
        move_bits<kLow, kShift>(load_words(quants + line * kLine + at), ((1 << kFormat.quants) - 1) << kShift);
    if constexpr (F::kTable) return look_up_codes<kType, kUnsigned>(codes, high);
    if constexpr (kFormat.high > 0) {
      constexpr int kTo = kFormat.quants + kShift, kMask = ((1 << kFormat.high) - 1) << kTo;
      const std::int64_t more = !F::kByBlock ? b : kType == DType::Q6_K ? 8 * kHalf + s : s;
      codes |= move_bits<kFrom, kTo>(load_words(high + more * kLine + at), kMask);
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
  GroupScales() = default;
  GroupScales(const std::byte* header, std::int64_t blocks, int i) : header_(header), blocks_(blocks), lane_(i) {
    if constexpr (kType == DType::Coded) {
      super_ = load(reinterpret_cast<const float*>(header_) + lane_) * kUnshift;
    } else if constexpr (F::kSuper) {
      super_ = halves(0) * kUnshift;
    }
    if constexpr (F::kSuper && F::kMinima) super_minimum_ = -halves(1);
  }

  // Of block b; where half blocks have their own, of half block b.
  Floats scale(std::int64_t b) const {
    if constexpr (kType == DType::MXFP4) {
      const Ints e = __builtin_convertvector(load_unsigned(run(0, b)), Ints);
      const Ints bits = e < 2 ? 0x00200000 * (e + 1) : (e - 1) << 23;
      Floats power;
      __builtin_memcpy(&power, &bits, sizeof power);
      return power * kUnshift;
    } else if constexpr (kType == DType::Q2_K) {
      return super_ * nibbles(b, 0);
    } else if constexpr (!F::kSuper) {
      return halves(b) * kUnshift;
    } else if constexpr (F::kMinima) {
      return super_ * load_unsigned(run(4, b));
    } else {
      return super_ * load_signed(run(kType == DType::Coded ? 4 : 2, b));
    }
  }
  // What is to be added per unit of x; of formats that have it.
  Floats minimum(std::int64_t b) const {
    if constexpr (kType == DType::Q2_K) return super_minimum_ * nibbles(b, 4);
    if constexpr (!F::kSuper) return halves(blocks_ + b);
    return super_minimum_ * load_unsigned(run(4 + 8, b));
  }

 private:
  using F = Format<kType, kUnsigned>;
  static constexpr float kUnshift = 1.0f / (1 << F::kShift);

  // Bytes of run b, behind `before` bytes for each row.
  const std::byte* run(int before, std::int64_t b) const { return header_ + (before + b) * kPanel + lane_; }
  Floats halves(std::int64_t b) const { return load_half(header_ + 2 * (b * kPanel + lane_)); }
  // Four bits of each byte of a run.
  Floats nibbles(std::int64_t b, int from) const {
    FewBytes bytes;
    __builtin_memcpy(&bytes, run(4, b), sizeof bytes);
    bytes = (bytes >> static_cast<std::uint8_t>(from)) & 15;
    return load_unsigned(&bytes);
  }

  const std::byte* header_ = nullptr;
  std::int64_t blocks_ = 0;
  int lane_ = 0;
  Floats super_ = {}, super_minimum_ = {};
};

// Calls use.operator()<kBlock>(b) for each block: with constants where the format wants them, and then for whole
// groups only.
template <DType kType, class Use>
FRSPEC_INLINE void for_each_block(std::int64_t blocks, Use&& use) {
  if constexpr (Format<kType>::kByBlock) {
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
      for (std::int64_t b = 0; b < blocks * (F::kHalfBlocks ? 2 : 1); ++b)
        store(minima + b * kPanel + i, of.minimum(b));
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
    if constexpr (F::kByBlock) {
      for (int s = 0; s < kBlockSteps; ++s) step.template operator()<0>(s);
    } else {
      unrolled<kBlockSteps>([&]<int kStep>() FRSPEC_INLINED { step.template operator()<kStep>(kStep); });
    }
  });
  return {codes, scales, minima};
}

}  // namespace
