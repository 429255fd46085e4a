// The kernels, written once. The including file defines, before the include:
//   FRSPEC_KERNELS   function that gives the table    FRSPEC_ISA_NAME   its printed name
//   FRSPEC_BASE      that of a set with the same vectors, whose table has all that is not better here: products of
//                    quantized weights where FRSPEC_BF16 is 0, else of BF16 and, with tiles, of many rows; or nothing
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

}  // namespace

#ifndef FRSPEC_BASE

#include "cpu/elementwise.inl"

#include "cpu/attention.inl"

#include "cpu/forms.inl"

#endif

#include "cpu/unpack.inl"

#include "cpu/multiply.inl"

#include "cpu/ceilings.inl"

#ifdef FRSPEC_BASE

// A function: the order in which files make their tables is not known.
const Kernels& FRSPEC_KERNELS() noexcept {
  static const Kernels table = []() noexcept {
    Kernels changed = FRSPEC_BASE();
    changed.name = FRSPEC_ISA_NAME;
    changed.form = form;
    changed.multiply = multiply;
    changed.burn = burn;
    return changed;
  }();
  return table;
}

#else

#include "cpu/gather.inl"
#include "cpu/noise.inl"

#include "cpu/delta.inl"

const Kernels& FRSPEC_KERNELS() noexcept {
  static const Kernels table = {FRSPEC_ISA_NAME,
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
  return table;
}

#endif
