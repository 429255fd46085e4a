// What machine this is.
#pragma once

#include <cstddef>
#include <string>

namespace frspec {

// Bytes of memory that may still be taken without swapping; 0 where the system does not say.
std::size_t available_memory();
std::string processor_name();  // "unknown processor" where the system does not say

}  // namespace frspec
