// Files of the Hugging Face Hub. Python knows how to fetch them: its cache, its tokens and its settings are shared with
// everything else that uses the hub. `frspec-download`, which is installed beside this binary, is asked for them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace frspec {

struct HubRequest {
  std::string repo;                 // USER/REPO[:QUANT]
  std::optional<std::string> file;  // of it; may be a pattern
  std::optional<std::string> token;
  bool is_drafter = false;
  bool offline = false;
};

// The file, or the first part of a split one, in the hub's cache. Progress is shown on standard error. Throws
// FileNotFound where `frspec-download` is not installed, InvalidInput with the hub's words, Interrupted for Ctrl-C.
std::filesystem::path fetch_from_hub(const HubRequest& request);

}  // namespace frspec
