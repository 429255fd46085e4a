// Kernels for x86-64 with AVX-512 as in kernels_avx512.cpp, and AVX512_BF16 (Sapphire Rapids, Zen 4 and later).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

namespace frspec::cpu {

#include "cpu/avx512.inl"

#include "cpu/avx512bf16.inl"

#define FRSPEC_KERNELS avx512bf16_kernels
#define FRSPEC_BASE avx512_kernels
#define FRSPEC_ISA_NAME "avx512bf16"
#define FRSPEC_BF16 1
#define FRSPEC_PAIRS 0
#define FRSPEC_AMX 0
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
