// Kernels for x86-64 with AVX2, FMA and F16C (2013 and later).
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "tensor/quant.h"

namespace frspec::cpu {
namespace {

constexpr int kLanes = 8;
constexpr int kTileRows = 3;
using Floats = float __attribute__((vector_size(4 * kLanes)));

inline Floats multiply_add(Floats a, Floats b, Floats c) { return reinterpret_cast<Floats>(_mm256_fmadd_ps(a, b, c)); }

inline Floats load_half(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }

inline void store_half(std::uint16_t* p, Floats v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace

#define FRSPEC_KERNELS kAvx2Kernels
#define FRSPEC_ISA_NAME "avx2"
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
