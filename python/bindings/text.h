// Texts to Python.
#pragma once

#include <string_view>

#include <nanobind/nanobind.h>

namespace frspec {

// Bytes of files and tokens need not be UTF-8: what is not becomes U+FFFD.
inline nanobind::object to_str(std::string_view bytes) {
  const auto size = static_cast<Py_ssize_t>(bytes.size());
  nanobind::object text = nanobind::steal(PyUnicode_DecodeUTF8(bytes.data(), size, "replace"));
  if (!text.is_valid()) throw nanobind::python_error();
  return text;
}

}  // namespace frspec
