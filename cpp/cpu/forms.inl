// The forms in which rows of x meet the weights.

namespace {

inline Ints round_to_int(Floats v) {
  // Adding 1.5 * 2^23 leaves the nearest whole number, ties to even, in the low bits.
  const Floats shifted = v + 12582912.0f;
  Ints bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4B400000;
}

// The largest magnitude as bits: NaN is above infinity is above all numbers.
inline std::uint32_t largest_bits(const float* x, std::int64_t n) {
  using Unsigned = std::uint32_t __attribute__((vector_size(4 * kLanes)));
  Unsigned best = {};
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const Floats value = load_up_to(x + i, n - i);
    Unsigned bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    bits &= 0x7FFFFFFFu;
    best = bits > best ? bits : best;
  }
  return largest(best);
}

inline float from_bits(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Neighbouring lanes of a, then of b, added.
template <class V>
inline V add_neighbours(V a, V b) {
  if constexpr (sizeof(V) == 64) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  } else if constexpr (sizeof(V) == 32) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  } else {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
  }
}

// Codes of half a group, from element `at` on: sums of each 16 and 32 of them. They stay in registers: memory that was
// just written in other pieces is slow to read.
constexpr int kHalfGroup = kGroup / 2;
inline void store_sums_of_codes(ActivationCodes& to, int at, const Ints* codes) {
  constexpr int kCount = kHalfGroup / 16, kEach = 16 / kLanes;
  Ints sums[kCount];
  for (int i = 0; i < kCount; ++i) {
    sums[i] = codes[kEach * i];
    for (int j = 1; j < kEach; ++j) sums[i] += codes[kEach * i + j];
  }
  int count = kCount;  // vectors: each 16 codes have kLanes sums, then half as many, at last one
  for (int lanes = kLanes; lanes > 1; lanes /= 2, count = count > 1 ? count / 2 : 1) {
    for (int i = 0; i < (count + 1) / 2; ++i)
      sums[i] = add_neighbours(sums[2 * i], sums[count > 1 ? 2 * i + 1 : 2 * i]);
  }
  for (int i = 0; i < count; ++i) sums[i] *= -128;
  __builtin_memcpy(to.offset16 + at / 16, sums, kCount * sizeof(std::int32_t));
  const Ints offset = add_neighbours(sums[0], sums[count - 1]);
  __builtin_memcpy(to.offset32 + at / 32, &offset, kCount / 2 * sizeof(std::int32_t));
}

inline float inverse_of(float magnitude) {
  return magnitude > 1e-36f && magnitude < __builtin_inff() ? 127.0f / magnitude : 0.0f;
}

// The n elements of x that a group holds, the rest are zero. Its scales are the blocks' largest magnitudes still.
inline void to_codes(ActivationGroup& group, const float* x, std::int64_t n) {
  float inverse[kGroup / 32];
  for (int b = 0; b < kGroup / 32; ++b) inverse[b] = inverse_of(group.scales[b]);
  for (int at = 0; at < kGroup; at += kHalfGroup) {
    Ints rounded[kHalfGroup / kLanes];
#pragma GCC unroll 32
    for (int i = 0; i < kHalfGroup; i += kLanes) {
      const Floats value = load_up_to(x + at + i, n - at - i);
      rounded[i / kLanes] = round_to_int(value * inverse[(at + i) / 32]);
      store_signed(group.main.codes + at + i, rounded[i / kLanes]);
    }
    store_sums_of_codes(group.main, at, rounded);
  }
  for (int b = 0; b < kGroup / 32; ++b) {
    group.scales[b] /= 127.0f;
    group.sums[b] = static_cast<float>(group.main.offset32[b]) * (-1.0f / 128.0f) * group.scales[b];
  }
}

// What the codes of block b of a group leave of its n elements.
inline void add_fine_codes(ActivationGroup& group, int b, const float* x, std::int64_t n) {
  const float scale = group.scales[b], inverse = inverse_of(scale * (127.0f * kFineStep));
  ActivationCodes& fine = group.fine;
  std::int32_t sums[2] = {};
  for (int i = 0; i < 32; i += kLanes) {
    const Floats rest = multiply_add(-load_signed(group.main.codes + 32 * b + i), splat(scale),
                                     load_up_to(x + 32 * b + i, n - 32 * b - i));
    const Ints rounded = round_to_int(rest * inverse);
    store_signed(fine.codes + 32 * b + i, rounded);
    for (int lane = 0; lane < kLanes; ++lane) sums[i / 16] += rounded[lane];
  }
  for (int half = 0; half < 2; ++half) fine.offset16[2 * b + half] = -128 * sums[half];
  fine.offset32[b] = -128 * (sums[0] + sums[1]);
  group.sums[b] += static_cast<float>(sums[0] + sums[1]) * (scale * kFineStep);
  group.spikes |= 1u << b;
}

// The mean of what is not far above the mean: a few huge blocks must not hide those that merely stand out.
inline float usual(const float* values, std::int64_t count, float below) {
  float total = 0.0f, chosen = 0.0f;
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[i] <= below) total += values[i], chosen += 1.0f;
  }
  return total / chosen;
}

void to_int8(std::byte* out, std::int64_t group_stride, const float* x, std::int64_t cols, float* magnitudes) {
  const auto group_of = [&](std::int64_t g) -> ActivationGroup& {
    return *reinterpret_cast<ActivationGroup*>(out + g * group_stride);
  };
  const std::int64_t groups = (cols + kGroup - 1) / kGroup, blocks = (cols + 31) / 32;
  // All magnitudes first: each takes a while, but they do not wait for each other.
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t left = cols - 32 * b;
    magnitudes[b] = from_bits(largest_bits(x + 32 * b, left < 32 ? left : 32));
  }
  const float all = usual(magnitudes, blocks, __builtin_inff());
  const float limit = kSpike * usual(magnitudes, blocks, 2.0f * all);
  for (std::int64_t g = 0; g < groups; ++g) {
    ActivationGroup& group = group_of(g);
    const std::int64_t first = g * (kGroup / 32), left = cols - g * kGroup;
    for (int b = 0; b < kGroup / 32; ++b) group.scales[b] = first + b < blocks ? magnitudes[first + b] : 0.0f;
    group.spikes = 0;
    to_codes(group, x + g * kGroup, left);
    for (int b = 0; b < kGroup / 32 && first + b < blocks; ++b) {
      const float magnitude = magnitudes[first + b];
      if (magnitude > limit && magnitude < __builtin_inff()) add_fine_codes(group, b, x + g * kGroup, left);
    }
  }
}

// Round to nearest, ties to even; NaN stays NaN.
void to_bf16(std::uint16_t* out, const float* x, std::int64_t cols) {
  for (std::int64_t i = 0; i < cols; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    out[i] = static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
  }
}

}  // namespace
