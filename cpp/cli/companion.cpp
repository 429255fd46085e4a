// Finding the programs of the Python package.
#include "cli/companion.h"

#include <unistd.h>

#include <cstdlib>
#include <system_error>

#include "base/error.h"

namespace frspec {

namespace fs = std::filesystem;

fs::path find_companion(std::string_view name, std::string_view purpose) {
  std::error_code ignored;
  const fs::path own = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path beside = own.parent_path() / name;
  if (!own.empty() && fs::exists(beside, ignored)) return beside;
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "";
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    const fs::path candidate = fs::path(rest.substr(0, colon)) / name;
    if (candidate.is_absolute() && access(candidate.c_str(), X_OK) == 0) return candidate;
    rest.remove_prefix(colon == std::string_view::npos ? rest.size() : colon + 1);
  }
  throw FileNotFound(
      concat("found no ", name, " beside ", own.empty() ? "frspec" : own.string(), " and none in PATH; ", purpose));
}

}  // namespace frspec
