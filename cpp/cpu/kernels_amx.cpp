// Kernels for x86-64 with AMX-INT8 and AMX-BF16 (Sapphire Rapids and later): AVX-512, and tiles for many rows.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

#define FRSPEC_AMX_EMULATED 0
#include "cpu/amx_tiles.h"

namespace frspec::cpu {

#include "cpu/avx512.inl"

#include "cpu/avx512bf16.inl"

#define FRSPEC_KERNELS amx_kernels
#define FRSPEC_BASE avx512_kernels
#define FRSPEC_ISA_NAME "amx"
#define FRSPEC_BF16 1
#define FRSPEC_PAIRS 0
#define FRSPEC_AMX 1
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
