// Whether a file would run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gguf/gguf_file.h"

namespace frspec {

struct FileVerdict {
  std::string use;                   // as what: "a model", or "a drafter beside its target"
  std::vector<std::string> reasons;  // why it would not; none: it would

  bool runs() const { return reasons.empty(); }
};

// By the checks of loading, but for the values of the weights, which nobody looks at here.
FileVerdict judge(const std::shared_ptr<const GgufFile>& file);

}  // namespace frspec
