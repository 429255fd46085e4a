// The kernels, written once. The including file defines, before the include:
//   FRSPEC_KERNELS   name of the table to define      FRSPEC_ISA_NAME   its printed name
//   kLanes           floats per vector register       Floats, multiply_add(a, b, c), load_half, store_half, one_half
//   kTileRows        rows of x per tile of kTilePanels panels: as many sums as fit the registers
//   kUnsignedCodes   whether dot_bytes takes unsigned weights; dot_bytes(sum, w, x): each lane adds four products
//   load_unsigned, load_signed, store_signed: bytes to floats, and back from ints
//   look_up(table, index): bytes of 16 that bytes below 16 choose, in each part of 16 bytes
//   lanes_from(v, least): a bit for each lane that is at least so large
//   multiply_even(a, b): products of the even 32-bit words of a with those of b, 64 bits wide
//   FRSPEC_PAIRS     1 where small unsigned codes are better multiplied by pair_products(w, x), add_pairs, widen_pairs
//
//   FRSPEC_AMX       1 where there are tiles (amx_tiles.h)
//
//   FRSPEC_BF16      1 where there is dot_bf16(sum, w, x), which adds two
//
//   low_half(v)      f16 in the low half of lanes
// Everything else is static, so each instruction set has its own copy (see kernels.h).

// Unrolled code must be one piece: closures that live in memory would be read again after every store.
#define FRSPEC_INLINED __attribute__((always_inline))
#define FRSPEC_INLINE inline FRSPEC_INLINED

namespace {

inline Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Floats v) { __builtin_memcpy(p, &v, sizeof v); }

// The first n < kLanes elements, then zeros.
inline Floats load_part(const float* p, std::int64_t n) {
  Floats v = {};
  __builtin_memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(float));
  return v;
}

// A whole vector where n elements are left for one, else the first n, and zeros where none are.
inline Floats load_up_to(const float* p, std::int64_t n) {
  return n >= kLanes ? load(p) : n > 0 ? load_part(p, n) : Floats{};
}

inline void store_part(float* p, Floats v, std::int64_t n) {
  __builtin_memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(float));
}

inline Floats splat(float x) { return x - Floats{}; }

// Adds halves to each other until one element is left. (A template, so that only the branch that fits is compiled.)
template <class V>
inline float sum(V v) {
  if constexpr (sizeof(V) == 64) {
    return sum(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  } else if constexpr (sizeof(V) == 32) {
    return sum(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
  } else {
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    return v[0] + v[1];
  }
}

// The largest element; all must be numbers.
template <class V>
inline auto largest(V v) {
  if constexpr (sizeof(V) == 64) {
    const auto a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    const auto b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    return largest(a > b ? a : b);
  } else if constexpr (sizeof(V) == 32) {
    const auto a = __builtin_shufflevector(v, v, 0, 1, 2, 3), b = __builtin_shufflevector(v, v, 4, 5, 6, 7);
    return largest(a > b ? a : b);
  } else {
    const V other = __builtin_shufflevector(v, v, 2, 3, 0, 1);
    v = v > other ? v : other;
    return v[0] > v[1] ? v[0] : v[1];
  }
}

// e^x (Cephes expf), about 1 ulp; arguments below -87 give about 1e-38 instead of a denormal or zero.
inline Floats exponential(Floats x) {
  x = x > splat(88.0f) ? splat(88.0f) : x;
  x = x > splat(-87.0f) ? x : splat(-87.0f);  // NaN goes here, too
  const Floats magic = splat(12582912.0f);    // 1.5 * 2^23: adding it rounds to an integer
  const Floats n = (x * 1.44269504088896341f + magic) - magic;
  Floats r = multiply_add(n, splat(-0.693359375f), x);
  r = multiply_add(n, splat(2.12194440e-4f), r);
  Floats p = splat(1.9875691500e-4f);
  p = multiply_add(p, r, splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r + 1.0f);
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  return p * power;
}

inline float dot(const float* a, const float* b, std::int64_t n) {
  Floats total = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total = multiply_add(load(a + i), load(b + i), total);
  if (i < n) total = multiply_add(load_part(a + i, n - i), load_part(b + i, n - i), total);
  return sum(total);
}

// --- Element-wise and row-wise ---

void rms_norm(float* out, const float* x, const float* weight, std::int64_t n, float epsilon) {
  const float mean = dot(x, x, n) / static_cast<float>(n);
  const float scale = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

struct Silu {
  static Floats of(Floats gate, Floats up) { return gate / (exponential(-gate) + 1.0f) * up; }
};

// (1 + tanh(z)) / 2 is the sigmoid of 2 z.
struct Gelu {
  static Floats of(Floats gate, Floats up) {
    const Floats z = (gate * gate * gate * 0.044715f + gate) * 1.5957691216057308f;  // 2 sqrt(2 / pi)
    return gate / (exponential(-z) + 1.0f) * up;
  }
};

struct Sigmoid {
  static Floats of(Floats gate, Floats up) { return up / (exponential(-gate) + 1.0f); }
};

// Comparisons are such that NaN stays.
struct Clamped {
  static Floats of(Floats gate, Floats up) {
    gate = gate > splat(7.0f) ? splat(7.0f) : gate;
    up = up > splat(7.0f) ? splat(7.0f) : up;
    up = up < splat(-7.0f) ? splat(-7.0f) : up;
    return gate / (exponential(gate * -1.702f) + 1.0f) * (up + 1.0f);
  }
};

template <class Gate>
void activate(float* out, const float* gate, const float* up, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, Gate::of(load(gate + i), load(up + i)));
  if (i < n) store_part(out + i, Gate::of(load_part(gate + i, n - i), load_part(up + i, n - i)), n - i);
}

void add_scaled(float* x, const float* y, float scale, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, multiply_add(load(y + i), splat(scale), load(x + i)));
  if (i < n) {
    store_part(x + i, multiply_add(load_part(y + i, n - i), splat(scale), load_part(x + i, n - i)), n - i);
  }
}

// cap tanh(x / cap). What is not finite becomes NaN: an overflow must not look like a large number.
inline Floats soft_capped(Floats x, float cap) {
  const Floats tangent = splat(1.0f) - splat(2.0f) / (exponential(x * (2.0f / cap)) + 1.0f);
  return tangent * cap + (x - x);
}

void to_logits(float* x, std::int64_t n, float scale, float cap) {
  const auto of = [=](Floats value) FRSPEC_INLINED {
    value = value * scale;
    return cap > 0.0f ? soft_capped(value, cap) : value;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, of(load(x + i)));
  if (i < n) store_part(x + i, of(load_part(x + i, n - i)), n - i);
}

void to_half(std::uint16_t* out, const float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_half(out + i, load(x + i));
  if (i < n) {
    std::uint16_t part[kLanes];
    store_half(part, load_part(x + i, n - i));
    __builtin_memcpy(out + i, part, static_cast<std::size_t>(n - i) * sizeof(std::uint16_t));
  }
}

float maximum(const float* x, std::int64_t n) {
  Floats best = splat(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats value = load(x + i);
    best = value > best ? value : best;
  }
  float top = largest(best);
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

float sum_exp(const float* x, std::int64_t n, float subtract) {
  // Vocabularies are long: the sums of short stretches are added in double precision.
  constexpr std::int64_t kStretch = 1024;
  double total = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kStretch) {
    const std::int64_t end = begin + kStretch < n ? begin + kStretch : n;
    Floats stretch = {};
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) stretch += exponential(load(x + i) - subtract);
    if (i < end) {
      const Floats last = exponential(load_part(x + i, end - i) - subtract);
      for (int lane = 0; lane < end - i; ++lane) total += static_cast<double>(last[lane]);
    }
    total += static_cast<double>(sum(stretch));
  }
  return static_cast<float>(total);
}

}  // namespace

#include "cpu/attention.inl"
#include "cpu/unpack.inl"

#include "cpu/multiply.inl"

#include "cpu/ceilings.inl"
#include "cpu/gather.inl"
#include "cpu/noise.inl"

#include "cpu/delta.inl"

const Kernels FRSPEC_KERNELS = {FRSPEC_ISA_NAME,
                                form,
                                to_int8,
                                to_bf16,
                                multiply,
                                attend,
                                merge_segments,
                                rms_norm,
                                {activate<Silu>, activate<Gelu>, activate<Clamped>, activate<Sigmoid>},
                                add_scaled,
                                to_logits,
                                to_half,
                                maximum,
                                sum_exp,
                                gumbel_run,
                                gumbel_list,
                                add_noise,
                                dot_rows,
                                sums_of_16,
                                columns_from,
                                convolve,
                                l2_norm,
                                delta_gates,
                                delta_step,
                                delta_keep,
                                gated_norm,
                                read,
                                burn};
