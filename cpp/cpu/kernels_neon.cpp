// Kernels for 64-bit ARM with the dot-product instructions (Armv8.2 and later): 32 registers of 16 bytes.
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels.h"

namespace frspec::cpu {
namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 3;
constexpr int kTilePanels = 1;
constexpr bool kUnsignedCodes = false;
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));

inline Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }

inline Floats from_halves(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }

inline Floats low_half(Ints v) { return from_halves(vmovn_u32(reinterpret_cast<uint32x4_t>(v))); }

inline Floats load_half(const void* p) { return from_halves(vld1_u16(static_cast<const std::uint16_t*>(p))); }

inline void store_half(std::uint16_t* p, Floats v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }

inline float one_half(std::uint16_t bits) { return from_halves(vdup_n_u16(bits))[0]; }

inline std::uint32_t load_word(const void* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

inline Floats load_unsigned(const void* p) {
  const uint16x8_t wide = vmovl_u8(vcreate_u8(load_word(p)));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}

inline Floats load_signed(const void* p) {
  const int16x8_t wide = vmovl_s8(vcreate_s8(load_word(p)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

inline void store_signed(void* p, Ints v) {
  const int16x4_t words = vmovn_s32(reinterpret_cast<int32x4_t>(v));
  const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
  __builtin_memcpy(p, &bytes, kLanes);
}

// Both signed.
inline Ints dot_bytes(Ints sum, Ints w, Ints x) {
  return reinterpret_cast<Ints>(
      vdotq_s32(reinterpret_cast<int32x4_t>(sum), reinterpret_cast<int8x16_t>(w), reinterpret_cast<int8x16_t>(x)));
}

// Bit i: whether lane i is at least `least`. NaN is not.
inline std::uint32_t lanes_from(Floats v, float least) {
  std::uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= v[i] >= least ? 1u << i : 0u;
  return lanes;
}

// Each byte of `index`, which is below 16: that byte of `table`.
inline Ints look_up(Ints table, Ints index) {
  return reinterpret_cast<Ints>(vqtbl1q_u8(reinterpret_cast<uint8x16_t>(table), reinterpret_cast<uint8x16_t>(index)));
}

using Quads = std::uint64_t __attribute__((vector_size(4 * kLanes)));
inline Quads multiply_even(Quads a, Quads b) {
  return reinterpret_cast<Quads>(
      vmull_u32(vmovn_u64(reinterpret_cast<uint64x2_t>(a)), vmovn_u64(reinterpret_cast<uint64x2_t>(b))));
}

}  // namespace

#define FRSPEC_KERNELS neon_kernels
#define FRSPEC_ISA_NAME "neon"
#define FRSPEC_BF16 0
#define FRSPEC_PAIRS 0
#define FRSPEC_AMX 0
#include "cpu/kernels.inl"

}  // namespace frspec::cpu
