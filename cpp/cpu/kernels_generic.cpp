// Kernels for any processor: 16-byte vectors, which every compiler target has or imitates; no fused multiply-add.
#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "tensor/quant.h"

namespace frspec::cpu {
namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 3;
using Floats = float __attribute__((vector_size(4 * kLanes)));

inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

float half_to_float(std::uint16_t h);

inline Floats load_half(const void* p) {
  std::uint16_t h[kLanes];
  __builtin_memcpy(h, p, sizeof h);
  return Floats{half_to_float(h[0]), half_to_float(h[1]), half_to_float(h[2]), half_to_float(h[3])};
}

// Round to nearest, ties to even; too large becomes infinity.
inline std::uint16_t float_to_half(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7FFFFFFFu;
  if (bits > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);   // NaN
  if (bits >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // rounds to 2^16 or more
  if (bits < 0x38800000u) {                                                    // below 2^-14: denormal or zero
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;  // the spacing of floats here is 2^-24, that of half denormals: the addition rounds
    __builtin_memcpy(&bits, &magnitude, sizeof bits);
    return static_cast<std::uint16_t>(sign | (bits - 0x3F000000u));
  }
  const std::uint32_t rounded = bits + 0xFFFu + ((bits >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline void store_half(std::uint16_t* p, Floats v) {
  for (int i = 0; i < kLanes; ++i) p[i] = float_to_half(v[i]);
}

}  // namespace

#define FRSPEC_KERNELS kGenericKernels
#define FRSPEC_ISA_NAME "generic"
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
