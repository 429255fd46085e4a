// The options that say which model and which drafter: files, names on the Hugging Face Hub, or neither, the demo pair.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "cli/arguments.h"

namespace frspec {

class ModelFiles {
 public:
  void add_model(Arguments& options, std::string help);
  void add_drafter(Arguments& options, std::string help);
  void add_hub(Arguments& options, bool with_drafter);  // behind the two others
  void add_more(Arguments& options);                    // a section of its own, of rare ones

  struct Paths {
    std::filesystem::path target;
    std::optional<std::filesystem::path> drafter;
  };
  // Fetches what is named and not there. Throws InvalidInput for options that exclude each other, FileNotFound, and
  // what the hub says.
  Paths find() const;

 private:
  std::optional<std::string> model_, drafter_;
  std::optional<std::string> repo_, file_, drafter_repo_, token_;
  bool offline_ = false;
};

}  // namespace frspec
