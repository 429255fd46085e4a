// Unicode for tokenizers: UTF-8 decoding and validation, and the classes of characters that splitting patterns name.
//
// The tables are those of Unicode 16.0, as in the regular expression library of Hugging Face tokenizers. Libraries of
// other versions differ in characters that were assigned later, and in those only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace frspec {

// Classes of a character, as bits: the general categories L*, M*, N*, P*, S*, the property White_Space (`\s`); Lu and
// Lt, Ll, Nd (`\d`), and what `\w` means.
using CharClass = std::uint16_t;
constexpr CharClass kLetter = 1;
constexpr CharClass kMark = 2;
constexpr CharClass kNumber = 4;
constexpr CharClass kPunctuation = 8;
constexpr CharClass kSymbol = 16;
constexpr CharClass kWhitespace = 32;
constexpr CharClass kUpper = 64;
constexpr CharClass kLower = 128;
constexpr CharClass kDigit = 256;
constexpr CharClass kWordCharacter = 512;

// Generated (unicode_tables.cpp): the block of every 128 code points, and the classes in each different block.
constexpr unsigned kUnicodeBlockBits = 7;
extern const std::uint8_t kUnicodeBlockOf[];
extern const std::uint16_t kUnicodeBlocks[];

// `code_point` must be at most U+10FFFF.
inline CharClass char_class(std::uint32_t code_point) {
  constexpr std::uint32_t kWithin = (1U << kUnicodeBlockBits) - 1;
  const std::uint32_t block = kUnicodeBlockOf[code_point >> kUnicodeBlockBits];
  return kUnicodeBlocks[(block << kUnicodeBlockBits) | (code_point & kWithin)];
}

// A character of *valid* UTF-8 and the bytes it takes.
struct Decoded {
  std::uint32_t code_point;
  std::uint32_t bytes;
};

inline Decoded decode_utf8(const char* at) {
  const auto byte = [at](int i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(at[i])); };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

// Bytes of the character of valid UTF-8 that begins with `first`.
inline std::size_t utf8_bytes_from_lead(char first) {
  const auto lead = static_cast<unsigned char>(first);
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// Offset of the first byte that begins no valid UTF-8 character; text.size() where all of `text` is valid.
std::size_t first_invalid_utf8(std::string_view text);

// What stands at text[at]: a whole character, the beginning of one that the end of `text` cuts off, or neither.
// `bytes` is then its length; what is there of it; or the length of the longest beginning of a character, at least 1
// (the "maximal subpart" that one U+FFFD replaces).
struct Utf8Unit {
  enum class Kind { Whole, CutOff, Invalid } kind;
  std::size_t bytes;
};
Utf8Unit utf8_unit(std::string_view text, std::size_t at);

}  // namespace frspec
