// 16-bit floating-point arithmetic on the host.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace frspec::emulation {

inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t magnitude = bits & 0x7FFF;
  if (magnitude >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000 | ((magnitude & 0x3FF) << 13));
  // As a float with a too small exponent, denormal numbers included; then the exponent is put right.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | sign);
}

// To nearest, ties to even; too large numbers become infinite.
inline std::uint16_t float_to_half(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  const std::uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<std::uint16_t>(sign | 0x7E00);
  if (magnitude >= 0x477FF000) return static_cast<std::uint16_t>(sign | 0x7C00);
  if (magnitude < 0x38800000) {  // denormal: let the addition round
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000));
  }
  const std::uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

template <class Operation>
std::uint32_t for_both_halves(Operation&& operation) {
  return static_cast<std::uint32_t>(operation(0)) | (static_cast<std::uint32_t>(operation(16)) << 16);
}
inline float half_at(std::uint32_t word, int shift) { return half_to_float(static_cast<std::uint16_t>(word >> shift)); }

// The results are exact in double before they are rounded to f32 and to f16; the first rounding could only be seen in
// numbers that use more than 24 bits.
inline std::uint16_t double_to_half(double x) { return float_to_half(static_cast<float>(x)); }
inline std::uint32_t half2_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return for_both_halves([=](int s) {
    return double_to_half(static_cast<double>(half_at(a, s)) * static_cast<double>(half_at(b, s)) +
                          static_cast<double>(half_at(c, s)));
  });
}
inline std::uint32_t half2_sub(std::uint32_t a, std::uint32_t b) {
  return for_both_halves([=](int s) { return float_to_half(half_at(a, s) - half_at(b, s)); });
}
inline std::uint32_t half2_mul(std::uint32_t a, std::uint32_t b) {
  return for_both_halves([=](int s) { return float_to_half(half_at(a, s) * half_at(b, s)); });
}

}  // namespace frspec::emulation
