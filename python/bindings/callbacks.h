// Python functions that long native work calls now and then.
#pragma once

#include <string>
#include <utility>

#include <nanobind/nanobind.h>

#include "gil.h"

namespace frspec {

// Lets Python's signal handlers run. Throws python_error with what they raised: Ctrl-C ends the work.
inline void check_signals() {
  const WithGil gil;
  if (run_python(PyErr_CheckSignals) != 0) throw nanobind::python_error();
}

// Calls `function` (unless it is None) with the GIL, which the caller has not got, after check_signals. Throws
// python_error with what it raised, too.
template <class... Arguments>
void call_python(const nanobind::object& function, Arguments&&... arguments) {
  const WithGil gil;
  check_signals();
  if (!function.is_none()) run_python([&] { return function(std::forward<Arguments>(arguments)...); });
}

// Raises frspec_cpp.ModelWarning with the GIL, which the caller has not got: `warning` may be an error for the user,
// who is so many Python frames away from the native call (1: called it). Throws python_error then.
void warn_in_python(const std::string& warning, int stack_level);

}  // namespace frspec
