// Reads one GGUF file (one part of a model) from memory, checking everything it is about to believe.
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gguf/gguf_file.h"
#include "gguf/mapped_file.h"

namespace frspec {

struct GgufPart {
  std::uint32_t version = 0;
  std::size_t alignment = 0;
  std::vector<GgufEntry> metadata;
  std::unordered_map<std::string_view, std::size_t> entry_by_key;
  std::vector<GgufTensor> tensors;
};

// Everything in the result points into `file`. Throws InvalidInput.
GgufPart parse_gguf(const MappedFile& file);

}  // namespace frspec
