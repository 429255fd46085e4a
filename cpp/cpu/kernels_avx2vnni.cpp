// Kernels for x86-64 with AVX2 as in kernels_avx2.cpp, and AVX-VNNI (Alder Lake, Zen 5 and later).
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

namespace frspec::cpu {

#include "cpu/avx2.inl"

namespace {

constexpr bool kUnsignedCodes = true;

// w: unsigned bytes, x: signed ones.
inline Ints dot_bytes(Ints sum, Ints w, Ints x) {
  return reinterpret_cast<Ints>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(w),
                                                        reinterpret_cast<__m256i>(x)));
}

}  // namespace

#define FRSPEC_KERNELS avx2vnni_kernels
#define FRSPEC_BASE avx2_kernels
#define FRSPEC_ISA_NAME "avx2vnni"
#define FRSPEC_BF16 0
#define FRSPEC_PAIRS 0
#define FRSPEC_AMX 0
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
