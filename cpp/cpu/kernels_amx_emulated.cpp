// The AMX kernels with tiles in software, for tests on machines with AVX-512 but without AMX: slow.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

#define FRSPEC_AMX_EMULATED 1
#include "cpu/amx_tiles.h"

namespace frspec::cpu {

#include "cpu/avx512.inl"

#include "cpu/avx512bf16.inl"

#define FRSPEC_KERNELS amx_emulated_kernels
#define FRSPEC_BASE avx512_kernels
#define FRSPEC_ISA_NAME "amx-emulated"
#define FRSPEC_BF16 1
#define FRSPEC_PAIRS 0
#define FRSPEC_AMX 1
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
