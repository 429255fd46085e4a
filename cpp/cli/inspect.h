// What `frspec inspect FILE` prints.
#pragma once

#include <memory>
#include <ostream>

#include "gguf/gguf_file.h"

namespace frspec {

// Version, alignment, size, metadata, tensors, totals by type, and whether the file would run (verdict.h): as text for
// people, with long values cut, or as one JSON object with scalars whole and arrays as type, count and their first
// values.
void print_inspection(std::ostream& out, const std::shared_ptr<const GgufFile>& file, bool json);

}  // namespace frspec
