// Errors: every failure in the library is one of these exceptions.
// A message names the file, the key or tensor, what was found and what was expected.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace frspec {

// Base of all errors (Python: RuntimeError).
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file or an argument that cannot be used (Python: ValueError).
class InvalidInput : public Error {
 public:
  using Error::Error;
};

// A file that is not there or cannot be opened (Python: FileNotFoundError).
class FileNotFound : public Error {
 public:
  using Error::Error;
};

// More memory than there is (Python: MemoryError).
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// The arguments written one after the other: concat("row ", 3, " of ", 2).
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// Throws InvalidInput with the concatenated message: by far the most common failure.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw InvalidInput(concat(parts...));
}

}  // namespace frspec
