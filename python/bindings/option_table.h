// The options of the table (engine/option_table.h) as Python's keyword arguments.
#pragma once

#include <nanobind/nanobind.h>

#include "engine/options.h"

namespace frspec {

// Options that are not among `keywords` keep their defaults, and so do those that have none of their own and are None.
// Unknown names and wrong types are a TypeError. A logits processor takes the GIL when it is called, copied or
// destroyed.
GenerateOptions read_options(const nanobind::kwargs& keywords);
EngineOptions read_engine_options(const nanobind::kwargs& keywords);

void init_option_table(nanobind::module_& m);

}  // namespace frspec
