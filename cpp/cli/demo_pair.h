// Where the bundled demo pair lies.
#pragma once

#include <filesystem>

namespace frspec {

struct DemoPair {
  std::filesystem::path target;
  std::filesystem::path drafter;
};

// Looks into the folder that the environment variable FRSPEC_DEMO_DIR names; without it, where an installation or a
// build tree keeps the pair, seen from the executable. Throws FileNotFound.
DemoPair find_demo_pair();

}  // namespace frspec
