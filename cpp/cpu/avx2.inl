// What the kernels of every AVX2 variant share: AVX2, FMA and F16C. The including file has read <immintrin.h>.

namespace {

constexpr int kLanes = 8;
constexpr int kTileRows = 3;
constexpr int kTilePanels = 1;
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));

inline Floats multiply_add(Floats a, Floats b, Floats c) { return reinterpret_cast<Floats>(_mm256_fmadd_ps(a, b, c)); }

inline Floats load_half(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }

inline void store_half(std::uint16_t* p, Floats v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline float one_half(std::uint16_t bits) { return _cvtsh_ss(bits); }

inline Floats low_half(Ints v) {
  const __m256i low = _mm256_and_si256(reinterpret_cast<__m256i>(v), _mm256_set1_epi32(0xFFFF));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0xD8);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

inline Floats load_unsigned(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}

inline Floats load_signed(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}

// Of numbers that fit.
inline void store_signed(void* p, Ints v) {
  const __m256i words = _mm256_packs_epi32(reinterpret_cast<__m256i>(v), reinterpret_cast<__m256i>(v));
  const __m256i bytes = _mm256_packs_epi16(words, words);
  const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storel_epi64(static_cast<__m128i*>(p), both);
}

// Bit i: whether lane i is at least `least`. NaN is not.
inline std::uint32_t lanes_from(Floats v, float least) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(least), _CMP_GE_OQ)));
}

// Each byte of `index`, which is below 16: that byte of its 16 bytes of `table`.
inline Ints look_up(Ints table, Ints index) {
  return reinterpret_cast<Ints>(
      _mm256_shuffle_epi8(reinterpret_cast<__m256i>(table), reinterpret_cast<__m256i>(index)));
}

using Quads = std::uint64_t __attribute__((vector_size(4 * kLanes)));
inline Quads multiply_even(Quads a, Quads b) {
  return reinterpret_cast<Quads>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}

}  // namespace
