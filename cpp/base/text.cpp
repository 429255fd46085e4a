#include "base/text.h"

#include <cstdio>
#include <iterator>

namespace frspec {
namespace {

unsigned byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

// Appends the character at text[at], escaped where it is not printable; returns the bytes it took.
std::size_t append_printable(std::string& out, std::string_view text, std::size_t at) {
  constexpr char kDigits[] = "0123456789abcdef";
  const std::size_t length = utf8_length(text, at);
  const unsigned byte = byte_at(text, at);
  // C1 controls (U+0080 to U+009F) steer a terminal as C0 do.
  const bool c1 = length == 2 && byte == 0xC2 && byte_at(text, at + 1) < 0xA0;
  if (length == 0 || byte < 0x20 || byte == 0x7F || c1) {
    for (std::size_t i = 0; i < (c1 ? 2U : 1U); ++i) {
      const unsigned value = byte_at(text, at + i);
      out += "\\x";
      out += kDigits[value >> 4];
      out += kDigits[value & 15];
    }
    return c1 ? 2 : 1;
  }
  out.append(text, at, length);
  return length;
}

}  // namespace

std::size_t utf8_length(std::string_view text, std::size_t at) {
  if (at >= text.size()) return 0;
  const unsigned first = byte_at(text, at);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() - at < length) return 0;
  // The second byte's range is narrower after the four lead bytes that could begin an overlong form, a surrogate or a
  // number past U+10FFFF.
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  const unsigned second = byte_at(text, at + 1);
  if (second < low || second > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if ((byte_at(text, at + i) & 0xC0U) != 0x80U) return 0;
  }
  return length;
}

std::string quoted(std::string_view text, std::size_t limit) {
  std::string out = "\"";
  std::size_t at = 0;
  while (at < text.size() && at < limit) {
    if (text[at] == '"' || text[at] == '\\') out += '\\';
    at += append_printable(out, text, at);
  }
  out += at < text.size() ? "...\"" : "\"";
  return out;
}

std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) at += append_printable(out, text, at);
  return out;
}

std::string format_bytes(std::size_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1000.0 && unit + 1 < std::size(kUnits); ++unit) value /= 1024.0;
  char text[32];
  std::snprintf(text, sizeof text, unit > 0 && value < 10.0 ? "%.1f %s" : "%.0f %s", value, kUnits[unit]);
  return text;
}

}  // namespace frspec
