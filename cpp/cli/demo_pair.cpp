#include "cli/demo_pair.h"

#include <cstdlib>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace frspec {
namespace {

namespace fs = std::filesystem;

std::optional<DemoPair> pair_in(const fs::path& folder) {
  DemoPair pair{folder / "demo-target.gguf", folder / "demo-eagle3.gguf"};
  std::error_code ignored;
  if (fs::exists(pair.target, ignored) && fs::exists(pair.drafter, ignored)) return pair;
  return std::nullopt;
}

// Folders of an installation whose binaries are in `bin`, then of the source tree that `bin` may be a build folder of.
std::vector<fs::path> candidates(const fs::path& bin) {
  std::vector<fs::path> folders;
  std::error_code ignored;
  for (const char* lib : {"lib", "lib64"}) {
    for (const auto& entry : fs::directory_iterator(bin.parent_path() / lib, ignored)) {
      if (!entry.path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"}) {
        folders.push_back(entry.path() / packages / "frspec_cpp" / "data");
      }
    }
  }
  folders.push_back(bin.parent_path() / "share" / "frspec");
  for (fs::path parent = bin;; parent = parent.parent_path()) {
    folders.push_back(parent / "python" / "frspec_cpp" / "data");
    if (parent == parent.parent_path()) return folders;
  }
}

}  // namespace

DemoPair find_demo_pair() {
  if (const char* folder = std::getenv("FRSPEC_DEMO_DIR"); folder != nullptr && *folder != '\0') {
    if (auto pair = pair_in(folder)) return *pair;
    throw FileNotFound(concat("FRSPEC_DEMO_DIR: found no demo-target.gguf and demo-eagle3.gguf in '", folder, "'"));
  }
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    for (const fs::path& folder : candidates(executable.parent_path())) {
      if (auto pair = pair_in(folder)) return *pair;
    }
  }
  throw FileNotFound(concat("the demo pair (demo-target.gguf, demo-eagle3.gguf) is not installed beside ",
                            executable.string(), "; name a model with -m, or its folder with FRSPEC_DEMO_DIR"));
}

}  // namespace frspec
