// Kernels for x86-64 with AVX2, FMA and F16C (2013 and later).
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

namespace frspec::cpu {

#include "cpu/avx2.inl"

namespace {

constexpr bool kUnsignedCodes = false;

// What the compiler takes for an unknown number. It would regroup sums of whole numbers, keep all products of a block
// until the end, and run out of registers.
inline Ints opaque(Ints v) {
  asm("" : "+x"(v));
  return v;
}

// Both signed. The instruction wants one unsigned operand: |w| * (x with the sign of w) is the same product, and two of
// them (at most 2 * 128 * 127) just fit 16 bits.
inline Ints dot_bytes(Ints sum, Ints w, Ints x) {
  const auto weights = reinterpret_cast<__m256i>(w);
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(reinterpret_cast<__m256i>(x), weights));
  return opaque(sum + reinterpret_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}

// Small unsigned codes w: sums of two products in 16 bits, added to each other, and at last pairs of those in 32 bits.
inline Ints pair_products(Ints w, Ints x) {
  return reinterpret_cast<Ints>(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(w), reinterpret_cast<__m256i>(x)));
}
inline Ints add_pairs(Ints a, Ints b) {
  return opaque(reinterpret_cast<Ints>(_mm256_add_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b))));
}
inline Ints widen_pairs(Ints v) {
  return reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(v), _mm256_set1_epi16(1)));
}

}  // namespace

#define FRSPEC_KERNELS avx2_kernels
#define FRSPEC_ISA_NAME "avx2"
#define FRSPEC_BF16 0
#define FRSPEC_PAIRS 1
#define FRSPEC_AMX 0
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
