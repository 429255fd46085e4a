// FNV-1a, 64 bits: tells whether two things are the same, where nobody forges them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace frspec {

// 16 hex digits.
inline std::string hex_digits(std::uint64_t value) {
  std::string digits(16, '0');
  for (std::size_t i = 0; i < 16; ++i) digits[15 - i] = "0123456789abcdef"[value >> (4 * i) & 15];
  return digits;
}

class Fnv1a64 {
 public:
  void add(std::string_view bytes) {
    for (const char byte : bytes) value_ = (value_ ^ static_cast<unsigned char>(byte)) * 0x100000001B3ULL;
  }
  std::string text() const { return hex_digits(value_); }

 private:
  std::uint64_t value_ = 0xCBF29CE484222325ULL;
};

}  // namespace frspec
