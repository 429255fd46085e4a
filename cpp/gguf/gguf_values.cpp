// Conversions and type names of metadata values.
#include "gguf/gguf_values.h"

#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/text.h"

namespace frspec {
namespace {

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<std::size_t>(type)];
}

bool gguf_is_unsigned(GgufType type) {
  return type == GgufType::U8 || type == GgufType::U16 || type == GgufType::U32 || type == GgufType::U64;
}

bool gguf_is_signed(GgufType type) {
  return type == GgufType::I8 || type == GgufType::I16 || type == GgufType::I32 || type == GgufType::I64;
}

bool gguf_is_float(GgufType type) { return type == GgufType::F32 || type == GgufType::F64; }

std::size_t gguf_type_bytes(GgufType type) {
  switch (type) {
    case GgufType::U8:
    case GgufType::I8:
    case GgufType::Bool:
      return 1;
    case GgufType::U16:
    case GgufType::I16:
      return 2;
    case GgufType::U32:
    case GgufType::I32:
    case GgufType::F32:
      return 4;
    case GgufType::U64:
    case GgufType::I64:
    case GgufType::F64:
      return 8;
    case GgufType::String:
    case GgufType::Array:
      break;
  }
  return 0;
}

std::uint64_t gguf_unsigned_at(const GgufNumberArray& array, std::size_t i) {
  const std::size_t bytes = gguf_type_bytes(array.element);
  std::uint64_t value = 0;  // little-endian: the upper bytes stay zero
  std::memcpy(&value, array.data + i * bytes, bytes);
  return value;
}

std::int64_t gguf_signed_at(const GgufNumberArray& array, std::size_t i) {
  switch (array.element) {
    case GgufType::I8:
      return load<std::int8_t>(array.data + i);
    case GgufType::I16:
      return load<std::int16_t>(array.data + 2 * i);
    case GgufType::I32:
      return load<std::int32_t>(array.data + 4 * i);
    default:
      return load<std::int64_t>(array.data + 8 * i);
  }
}

double gguf_float_at(const GgufNumberArray& array, std::size_t i) {
  if (array.element == GgufType::F32) return static_cast<double>(load<float>(array.data + 4 * i));
  return load<double>(array.data + 8 * i);
}

std::string gguf_describe_type(const GgufEntry& entry) {
  if (const auto* array = std::get_if<GgufNumberArray>(&entry.value)) {
    return concat("array of ", gguf_type_name(array->element));
  }
  if (std::holds_alternative<GgufStrings>(entry.value)) return "array of string";
  if (std::holds_alternative<GgufNestedArray>(entry.value)) return "array of array";
  return std::string(gguf_type_name(entry.type));
}

void gguf_fail_type(std::string_view file, const GgufEntry& entry, std::string_view expected) {
  fail(file, ": metadata key ", quoted(entry.key), " is of type ", gguf_describe_type(entry), ", expected ", expected);
}

std::int64_t gguf_to_int(std::string_view file, const GgufEntry& entry) {
  if (const auto* value = std::get_if<std::int64_t>(&entry.value)) return *value;
  const auto* value = std::get_if<std::uint64_t>(&entry.value);
  if (value == nullptr) gguf_fail_type(file, entry, "an integer");
  if (*value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail(file, ": metadata key ", quoted(entry.key), " is ", *value, ", expected a number below 2^63");
  }
  return static_cast<std::int64_t>(*value);
}

}  // namespace frspec
