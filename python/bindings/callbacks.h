// Python functions that long native work calls now and then.
#pragma once

#include <string>
#include <utility>

#include <nanobind/nanobind.h>

namespace frspec {

// Calls `function` (unless it is None) with the GIL, which the caller has not got, after letting Python's signal
// handlers run. Throws python_error with what either of them raised: Ctrl-C ends the work.
template <class... Arguments>
void call_python(const nanobind::object& function, Arguments&&... arguments) {
  const nanobind::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
  if (!function.is_none()) function(std::forward<Arguments>(arguments)...);
}

// Raises frspec_cpp.ModelWarning with the GIL, which the caller has not got: `warning` may be an error for the user,
// who is so many Python frames away from the native call (1: called it). Throws python_error then.
void warn_in_python(const std::string& warning, int stack_level);

}  // namespace frspec
