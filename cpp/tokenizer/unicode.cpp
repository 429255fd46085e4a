#include "tokenizer/unicode.h"

#include <cstring>

namespace frspec {

Utf8Unit utf8_unit(std::string_view text, std::size_t at) {
  using Kind = Utf8Unit::Kind;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned>(static_cast<unsigned char>(text[at + i])); };
  const unsigned first = byte(0);
  if (first < 0x80) return {Kind::Whole, 1};
  if (first < 0xC2 || first > 0xF4) return {Kind::Invalid, 1};
  const std::size_t length = utf8_bytes_from_lead(text[at]);
  // The second byte's range is narrower after the four lead bytes that could begin an overlong form, a surrogate or a
  // number past U+10FFFF.
  unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < length; ++i) {
    if (at + i == text.size()) return {Kind::CutOff, i};
    if (byte(i) < low || byte(i) > high) return {Kind::Invalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Kind::Whole, length};
}

std::size_t first_invalid_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight = 0;
    if (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080ULL) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const Utf8Unit unit = utf8_unit(text, at);
    if (unit.kind != Utf8Unit::Kind::Whole) return at;
    at += unit.bytes;
  }
  return at;
}

}  // namespace frspec
