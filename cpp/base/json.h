// A JSON writer: values go to the stream as they come, correctly escaped and separated.
//
//   JsonWriter json(out);
//   json.begin_object();
//   json.member("text", text);
//   json.key("tokens");
//   json.begin_array();
//   for (int id : ids) json.value(id);
//   json.end_array();
//   json.end_object();
#pragma once

#include <concepts>
#include <cstdint>
#include <ostream>
#include <string_view>
#include <vector>

namespace frspec {

class JsonWriter {
 public:
  // With `indent` > 0 every item stands on its own line, indented by so many spaces per level; except in arrays begun
  // with begin_array(true).
  explicit JsonWriter(std::ostream& out, int indent = 0) : out_(out), indent_(indent) {}

  void begin_object() { begin('{', false); }
  void end_object() { end('}'); }
  void begin_array(bool one_line = false) { begin('[', one_line); }
  void end_array() { end(']'); }
  void key(std::string_view name);

  void null();
  void value(bool value);
  void value(double value);  // shortest digits that read back the same; null where not finite, which JSON cannot say
  void value(float value);   // likewise, as f32: 0.1, not 0.10000000149011612
  void value(std::string_view text);  // each byte that is not UTF-8 becomes U+FFFD
  void value(const char* text) { value(std::string_view(text)); }
  template <std::signed_integral T>
  void value(T number) {
    signed_value(number);
  }
  template <std::unsigned_integral T>
    requires(!std::same_as<T, bool>)
  void value(T number) {
    unsigned_value(number);
  }

  template <class T>
  void member(std::string_view name, const T& member_value) {
    key(name);
    value(member_value);
  }

 private:
  struct Level {
    bool empty;
    bool one_line;
  };

  void begin(char bracket, bool one_line);
  void end(char bracket);
  void separate();  // what must stand before the next item: comma, line break
  void new_line();
  void write_string(std::string_view text);
  void signed_value(std::int64_t value);
  void unsigned_value(std::uint64_t value);

  std::ostream& out_;
  int indent_;
  bool after_key_ = false;
  std::vector<Level> levels_;
};

}  // namespace frspec
