// Separators, escapes and digits. Numbers are formatted without the stream, whose locale might group digits.
#include "base/json.h"

#include <charconv>
#include <cmath>
#include <string>

#include "base/text.h"

namespace frspec {
namespace {

template <class T>
void write_number(std::ostream& out, T number) {
  char digits[40];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, number);
  out.write(digits, end - digits);
}

}  // namespace

void JsonWriter::begin(char bracket, bool one_line) {
  separate();
  out_.put(bracket);
  const bool inside_line = !levels_.empty() && levels_.back().one_line;
  levels_.push_back({true, one_line || inside_line});
}

void JsonWriter::end(char bracket) {
  const Level level = levels_.back();
  levels_.pop_back();
  if (!level.empty && !level.one_line) new_line();
  out_.put(bracket);
}

void JsonWriter::separate() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (levels_.empty()) return;
  Level& level = levels_.back();
  if (!level.empty) out_ << (level.one_line ? ", " : ",");
  if (!level.one_line) new_line();
  level.empty = false;
}

void JsonWriter::new_line() {
  if (indent_ <= 0) return;
  out_ << '\n' << std::string(levels_.size() * static_cast<std::size_t>(indent_), ' ');
}

void JsonWriter::key(std::string_view name) {
  separate();
  write_string(name);
  out_ << (indent_ > 0 ? ": " : ":");
  after_key_ = true;
}

void JsonWriter::null() {
  separate();
  out_ << "null";
}

void JsonWriter::value(bool value) {
  separate();
  out_ << (value ? "true" : "false");
}

void JsonWriter::value(double value) {
  if (!std::isfinite(value)) return null();
  separate();
  write_number(out_, value);
}

void JsonWriter::value(float value) {
  if (!std::isfinite(value)) return null();
  separate();
  write_number(out_, value);
}

void JsonWriter::value(std::string_view text) {
  separate();
  write_string(text);
}

void JsonWriter::signed_value(std::int64_t value) {
  separate();
  write_number(out_, value);
}

void JsonWriter::unsigned_value(std::uint64_t value) {
  separate();
  write_number(out_, value);
}

void JsonWriter::write_string(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string escaped = "\"";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    const char c = text[at];
    if (length == 0) {
      escaped += "\xEF\xBF\xBD";
    } else if (c == '"' || c == '\\') {
      escaped += {'\\', c};
    } else if (c == '\n') {
      escaped += "\\n";
    } else if (c == '\t') {
      escaped += "\\t";
    } else if (c == '\r') {
      escaped += "\\r";
    } else if (length == 1 && (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)) {
      escaped += {'\\', 'u', '0', '0', kDigits[c >> 4], kDigits[c & 15]};
    } else {
      escaped.append(text, at, length);
    }
    at += length == 0 ? 1 : length;
  }
  escaped += '"';
  out_ << escaped;
}

}  // namespace frspec
