// Numbers on the device. 16-bit numbers are handled as their bits, pairs of them as one 32-bit word, the first in the
// low half. Nothing is fused but fma(): the compiler is told so.
#pragma once

#include <bit>
#include <cmath>

#include "cuda/device/platform.cuh"

#ifndef FRSPEC_CUDA_EMULATED
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace frspec::FRSPEC_CUDA_NAMESPACE {

#ifdef FRSPEC_CUDA_EMULATED
inline float half_to_float(std::uint16_t bits) { return emulation::half_to_float(bits); }
inline std::uint16_t float_to_half(float x) { return emulation::float_to_half(x); }  // to nearest even; may overflow
inline float fma(float a, float b, float c) { return std::fmaf(a, b, c); }
// Of both numbers of a word, each rounded once.
inline std::uint32_t half2_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return emulation::half2_fma(a, b, c);
}
inline std::uint32_t half2_sub(std::uint32_t a, std::uint32_t b) { return emulation::half2_sub(a, b); }
inline std::uint32_t half2_mul(std::uint32_t a, std::uint32_t b) { return emulation::half2_mul(a, b); }
#else
__device__ inline float half_to_float(std::uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ inline std::uint16_t float_to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ inline float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
// In PTX: through __half2, compilers take words apart and put them together again.
__device__ inline std::uint32_t half2_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t result;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}
__device__ inline std::uint32_t half2_sub(std::uint32_t a, std::uint32_t b) {
  std::uint32_t result;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
__device__ inline std::uint32_t half2_mul(std::uint32_t a, std::uint32_t b) {
  std::uint32_t result;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
#endif

#ifdef FRSPEC_CUDA_EMULATED
inline int leading_zeros(std::uint64_t x) { return std::countl_zero(x); }
#else
__device__ inline int leading_zeros(std::uint64_t x) { return __clzll(static_cast<long long>(x)); }
#endif

__device__ inline float bits_to_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
__device__ inline std::uint32_t float_to_bits(float x) { return std::bit_cast<std::uint32_t>(x); }

__device__ inline float bf16_to_float(std::uint16_t bits) {
  return bits_to_float(static_cast<std::uint32_t>(bits) << 16);
}
// To nearest even; NaN stays NaN.
__device__ inline std::uint16_t float_to_bf16(float x) {
  const std::uint32_t bits = float_to_bits(x);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

__device__ inline std::uint32_t pack_halves(std::uint16_t low, std::uint16_t high) {
  return static_cast<std::uint32_t>(low) | (static_cast<std::uint32_t>(high) << 16);
}

// word & mask | bits, in one instruction: left to itself, nvcc makes it two, as each of them can hold one constant
// only.
#ifdef FRSPEC_CUDA_EMULATED
inline std::uint32_t and_or(std::uint32_t word, std::uint32_t mask, std::uint32_t bits) { return (word & mask) | bits; }
#else
__device__ inline std::uint32_t and_or(std::uint32_t word, std::uint32_t mask, std::uint32_t bits) {
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
}
#endif

// Four bytes of a word, chosen by the nibbles of `order`, the lowest first.
#ifdef FRSPEC_CUDA_EMULATED
inline std::uint32_t permute(std::uint32_t word, std::uint32_t order) {
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= ((word >> (8 * (order >> (4 * i) & 3))) & 0xFF) << (8 * i);
  return result;
}
#else
__device__ inline std::uint32_t permute(std::uint32_t word, std::uint32_t order) { return __byte_perm(word, 0, order); }
#endif

// The same of two words: bytes 4 to 7 are those of the second.
#ifdef FRSPEC_CUDA_EMULATED
inline std::uint32_t permute(std::uint32_t low, std::uint32_t high, std::uint32_t order) {
  std::uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t byte = order >> (4 * i) & 7;
    result |= ((byte < 4 ? low : high) >> (8 * (byte % 4)) & 0xFF) << (8 * i);
  }
  return result;
}
#else
__device__ inline std::uint32_t permute(std::uint32_t low, std::uint32_t high, std::uint32_t order) {
  return __byte_perm(low, high, order);
}
#endif

// 2^e for -126 <= e <= 127.
__device__ inline float power_of_two(int e) { return bits_to_float(static_cast<std::uint32_t>(e + 127) << 23); }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
