// What machine this is.
#pragma once

#include <string>

namespace frspec {

std::string processor_name();  // "unknown processor" where the system does not say

}  // namespace frspec
