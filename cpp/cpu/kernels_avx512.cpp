// Kernels for x86-64 with AVX-512 F, BW, DQ and VL (Skylake-SP, Zen 4 and later).
// GCC 12's own header initialises "undefined" registers with themselves, and warns of it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "tensor/quant.h"

namespace frspec::cpu {
namespace {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;
using Floats = float __attribute__((vector_size(4 * kLanes)));

inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline Floats load_half(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }

inline void store_half(std::uint16_t* p, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace

#define FRSPEC_KERNELS kAvx512Kernels
#define FRSPEC_ISA_NAME "avx512"
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
