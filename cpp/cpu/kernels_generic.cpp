// Kernels for any processor: 16-byte vectors, which every compiler target has or imitates; no fused multiply-add.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

namespace frspec::cpu {
namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 2;
constexpr int kTilePanels = 1;
constexpr bool kUnsignedCodes = false;
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));

inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

// The f16 in the low half of each lane. Denormals are scaled as whole numbers: as floats they would be slow.
inline Floats low_half(Ints v) {
  const Ints sign = (v & 0x8000) << 16, exponent = v & 0x7C00, mantissa = v & 0x3FF;
  const Floats small = __builtin_convertvector(mantissa, Floats) * 5.9604644775390625e-8f;  // 2^-24
  Ints small_bits;
  __builtin_memcpy(&small_bits, &small, sizeof small_bits);
  const Ints large_bits = ((v & 0x7FFF) << 13) + (exponent == 0x7C00 ? Ints{} + (224 << 23) : Ints{} + (112 << 23));
  const Ints bits = sign | (exponent == 0 ? small_bits : large_bits);
  Floats value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline Floats load_half(const void* p) {
  std::uint16_t h[kLanes];
  __builtin_memcpy(h, p, sizeof h);
  return low_half(Ints{h[0], h[1], h[2], h[3]});
}

template <class Byte>
inline Floats load_bytes(const void* p) {
  Byte v[kLanes];
  __builtin_memcpy(v, p, sizeof v);
  return Floats{static_cast<float>(v[0]), static_cast<float>(v[1]), static_cast<float>(v[2]), static_cast<float>(v[3])};
}

inline Floats load_unsigned(const void* p) { return load_bytes<std::uint8_t>(p); }
inline Floats load_signed(const void* p) { return load_bytes<std::int8_t>(p); }

inline void store_signed(void* p, Ints v) {
  const std::int8_t bytes[kLanes] = {static_cast<std::int8_t>(v[0]), static_cast<std::int8_t>(v[1]),
                                     static_cast<std::int8_t>(v[2]), static_cast<std::int8_t>(v[3])};
  __builtin_memcpy(p, bytes, sizeof bytes);
}

inline float one_half(std::uint16_t bits) { return low_half(Ints{bits, 0, 0, 0})[0]; }

// Both signed.
inline Ints dot_bytes(Ints sum, Ints w, Ints x) {
  // Bytes of a lane, sign-extended by shifting them to the top and back.
  for (int byte = 0; byte < 4; ++byte) {
    const int up = 24 - 8 * byte;
    sum += (w << up >> 24) * (x << up >> 24);
  }
  return sum;
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

// Bit i: whether lane i is at least `least`. NaN is not.
inline std::uint32_t lanes_from(Floats v, float least) {
  std::uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= v[i] >= least ? 1u << i : 0u;
  return lanes;
}

// Each byte of `index`, which is below 16: that byte of `table`.
inline Ints look_up(Ints table, Ints index) {
  std::uint8_t bytes[sizeof table], at[sizeof index];
  __builtin_memcpy(bytes, &table, sizeof table);
  __builtin_memcpy(at, &index, sizeof index);
  for (std::uint8_t& i : at) i = bytes[i];
  Ints found;
  __builtin_memcpy(&found, at, sizeof found);
  return found;
}

using Quads = std::uint64_t __attribute__((vector_size(4 * kLanes)));
inline Quads multiply_even(Quads a, Quads b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }

}  // namespace

#define FRSPEC_KERNELS generic_kernels
#define FRSPEC_ISA_NAME "generic"
#define FRSPEC_BF16 0
#define FRSPEC_PAIRS 0
#define FRSPEC_AMX 0
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
