// Metadata values of GGUF files as C++ values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "gguf/gguf_file.h"

namespace frspec {

// Bytes of one element of a number array; 0 for strings and arrays, whose elements differ in size.
std::size_t gguf_type_bytes(GgufType type);

bool gguf_is_unsigned(GgufType type);
bool gguf_is_signed(GgufType type);
bool gguf_is_float(GgufType type);

// "u32", "array of string" ...
std::string gguf_describe_type(const GgufEntry& entry);

// The i-th element of an array, widened: for unsigned integers and booleans, for signed integers, for floats.
std::uint64_t gguf_unsigned_at(const GgufNumberArray& array, std::size_t i);
std::int64_t gguf_signed_at(const GgufNumberArray& array, std::size_t i);
double gguf_float_at(const GgufNumberArray& array, std::size_t i);

// Throws InvalidInput for `entry` of the file `file`: it is of another type than `expected`.
[[noreturn]] void gguf_fail_type(std::string_view file, const GgufEntry& entry, std::string_view expected);

// The entry as an integer; throws InvalidInput where it is none or does not fit 64 bits with sign.
std::int64_t gguf_to_int(std::string_view file, const GgufEntry& entry);

}  // namespace frspec
