// The options of a text, from Python's keyword arguments.
#pragma once

#include <nanobind/nanobind.h>

#include "engine/options.h"

namespace frspec {

// Options that are not among `keywords` keep their defaults; unknown names and wrong types are a TypeError. A logits
// processor takes the GIL when it is called, copied or destroyed.
GenerateOptions read_options(const nanobind::kwargs& keywords);

}  // namespace frspec
