// What the kernels of every AVX-512 variant share: F, BW, DQ, VL and VNNI. The including file has read <immintrin.h>.

namespace {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kTilePanels = 2;
constexpr bool kUnsignedCodes = true;
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));

inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline Floats load_half(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }

inline void store_half(std::uint16_t* p, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline float one_half(std::uint16_t bits) { return _cvtsh_ss(bits); }

inline Floats low_half(Ints v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(v))); }

inline Floats load_unsigned(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}

inline Floats load_signed(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}

inline void store_signed(void* p, Ints v) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
}

// w: unsigned bytes, x: signed ones.
inline Ints dot_bytes(Ints sum, Ints w, Ints x) {
  return reinterpret_cast<Ints>(
      _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(w), reinterpret_cast<__m512i>(x)));
}

// Bit i: whether lane i is at least `least`. NaN is not.
inline std::uint32_t lanes_from(Floats v, float least) {
  return _mm512_cmp_ps_mask(v, _mm512_set1_ps(least), _CMP_GE_OQ);
}

// Each byte of `index`, which is below 16: that byte of its 16 bytes of `table`.
inline Ints look_up(Ints table, Ints index) {
  return reinterpret_cast<Ints>(
      _mm512_shuffle_epi8(reinterpret_cast<__m512i>(table), reinterpret_cast<__m512i>(index)));
}

using Quads = std::uint64_t __attribute__((vector_size(4 * kLanes)));
inline Quads multiply_even(Quads a, Quads b) {
  return reinterpret_cast<Quads>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}

}  // namespace
