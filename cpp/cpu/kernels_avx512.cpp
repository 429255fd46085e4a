// Kernels for x86-64 with AVX-512 F, BW, DQ, VL and VNNI (Cascade Lake, Ice Lake and later).
// GCC 12's own header initialises "undefined" registers with themselves, and warns of it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

namespace frspec::cpu {

#include "cpu/avx512.inl"

#define FRSPEC_KERNELS avx512_kernels
#define FRSPEC_ISA_NAME "avx512"
#define FRSPEC_BF16 0
#define FRSPEC_PAIRS 0
#define FRSPEC_AMX 0
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
