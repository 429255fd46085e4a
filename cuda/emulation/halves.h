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

// Rounding in two steps gives the same as rounding once, if the first one rounds to odd: what is not exact goes to the
// neighbour whose last bit is 1. `rest` is what the rounding of x left out, only its sign matters.
template <class Bits, class Float>
Float round_to_odd(Float x, double rest) {
  if (rest == 0.0 || !std::isfinite(x) || !std::isfinite(rest)) return x;
  auto bits = std::bit_cast<Bits>(x);
  if ((rest > 0.0) != (x > 0)) --bits;  // towards 0
  return std::bit_cast<Float>(bits | 1);
}

inline std::uint16_t fma_to_half(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);  // exact
  const double addend = static_cast<double>(c);
  const double sum = product + addend;
  const double of_addend = sum - product;
  const double rest = (product - (sum - of_addend)) + (addend - of_addend);
  const double odd = round_to_odd<std::uint64_t>(sum, rest);
  const auto rounded = static_cast<float>(odd);
  return float_to_half(round_to_odd<std::uint32_t>(rounded, odd - static_cast<double>(rounded)));
}
inline std::uint32_t half2_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return for_both_halves([=](int s) { return fma_to_half(half_at(a, s), half_at(b, s), half_at(c, s)); });
}
// Sums and products of two 11-bit numbers may be rounded to 24 bits first.
inline std::uint32_t half2_sub(std::uint32_t a, std::uint32_t b) {
  return for_both_halves([=](int s) { return float_to_half(half_at(a, s) - half_at(b, s)); });
}
inline std::uint32_t half2_mul(std::uint32_t a, std::uint32_t b) {
  return for_both_halves([=](int s) { return float_to_half(half_at(a, s) * half_at(b, s)); });
}

}  // namespace frspec::emulation
