// What kernels with AVX512_BF16 add to avx512.inl.

namespace {

// Each lane adds the products of two pairs.
inline Floats dot_bf16(Floats sum, Ints w, Ints x) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
}

}  // namespace
