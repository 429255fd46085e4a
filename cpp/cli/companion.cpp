// Finding the programs of the Python package.
#include "cli/companion.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/text.h"

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

void become_companion(std::string_view name, std::string_view purpose, std::span<char* const> arguments) {
  std::string program = find_companion(name, purpose).string();
  std::vector<char*> all = {program.data()};
  all.insert(all.end(), arguments.begin(), arguments.end());
  all.push_back(nullptr);
  execv(program.c_str(), all.data());
  throw Error(concat(printable(program), ": cannot be run: ", std::strerror(errno), "; ", purpose));
}

}  // namespace frspec
