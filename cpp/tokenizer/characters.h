// The characters of a text, one after the other, with their classes.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "tokenizer/unicode.h"

namespace frspec {

// The character at `at`; none (no class, no bytes) at the end.
struct Char {
  std::uint32_t code_point = 0;
  std::uint32_t bytes = 0;
  CharClass classes = 0;

  bool is(CharClass wanted) const { return (classes & wanted) != 0; }
  bool is_line_end() const { return code_point == '\r' || code_point == '\n'; }
};

// Most text is ASCII, and one small table is faster than the two of char_class().
constexpr auto kAsciiClasses = [] {
  std::array<CharClass, 128> classes = {};
  for (unsigned c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool whitespace = c == ' ' || (c >= '\t' && c <= '\r');
    const bool symbol = std::string_view("$+<=>^`|~").find(static_cast<char>(c)) != std::string_view::npos;
    classes[c] = letter                 ? CharClass{kLetter | kWordCharacter}
                 : whitespace           ? kWhitespace
                 : c >= '0' && c <= '9' ? CharClass{kNumber | kDigit | kWordCharacter}
                 : symbol               ? kSymbol
                 : c > ' ' && c != 0x7F ? kPunctuation
                                        : CharClass{0};
    if (letter) classes[c] |= c < 'a' ? kUpper : kLower;
    if (c == '_') classes[c] |= kWordCharacter;
  }
  return classes;
}();

inline Char char_at(const char* at, const char* end) {
  if (at == end) return {};
  const auto byte = static_cast<unsigned char>(*at);
  if (byte < 0x80) return {byte, 1, kAsciiClasses[byte]};
  const Decoded decoded = decode_utf8(at);
  return {decoded.code_point, decoded.bytes, char_class(decoded.code_point)};
}

// The character that ends at `at`, behind `begin`.
inline Char char_before(const char* begin, const char* at) {
  const char* first = at;
  while (first > begin) {
    --first;
    if ((static_cast<unsigned char>(*first) & 0xC0) != 0x80) break;
  }
  return char_at(first, at);
}

// Past the characters from `at` on that satisfy `wanted`.
template <class Wanted>
inline const char* skip_while(const char* at, const char* end, Wanted wanted) {
  while (at < end) {
    const Char c = char_at(at, end);
    if (!wanted(c)) break;
    at += c.bytes;
  }
  return at;
}

}  // namespace frspec
