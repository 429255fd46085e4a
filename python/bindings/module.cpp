// The extension module `frspec_cpp._core`: its parts, its version, and how errors become Python exceptions.
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "backend/registry.h"
#include "base/error.h"
#include "callbacks.h"
#include "option_table.h"

namespace nb = nanobind;

namespace frspec {

void init_gguf(nb::module_& m);
void init_tokenizer(nb::module_& m);
void init_engine(nb::module_& m);
void init_bench(nb::module_& m);
void init_translation(nb::module_& m);

namespace {

// A message may quote bytes of a file or a path that are not UTF-8.
void raise(PyObject* type, std::string_view message) {
  const nb::object text =
      nb::steal(PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "backslashreplace"));
  if (text.is_valid()) PyErr_SetObject(type, text.ptr());
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const InvalidInput& error) {
    raise(PyExc_ValueError, error.what());
  } catch (const FileNotFound& error) {
    raise(PyExc_FileNotFoundError, error.what());
  } catch (const OutOfMemory& error) {
    raise(PyExc_MemoryError, error.what());
  } catch (const std::bad_alloc&) {
    raise(PyExc_MemoryError, "out of memory");
  } catch (const Error& error) {
    raise(PyExc_RuntimeError, error.what());
  }
}

}  // namespace

void warn_in_python(const std::string& warning, int stack_level) {
  const WithGil gil;
  const nb::object category = nb::module_::import_("frspec_cpp.model_warning").attr("ModelWarning");
  // It may quote bytes of a file that are not UTF-8, but those are escaped.
  if (run_python([&] { return PyErr_WarnEx(category.ptr(), warning.c_str(), stack_level); }) != 0)
    throw nb::python_error();
}

}  // namespace frspec

// What Python calls, in every interpreter that imports the module. A second one (of mod_wsgi, or of a test) would take
// the types away from the first one, so it has to be stopped before nanobind begins.
#define PyInit__core init_core
NB_MODULE(_core, m) {
  m.doc() = "The native part of frspec_cpp.";
  nb::set_leak_warnings(false);  // a text that is still open when Python ends is no leak
  m.attr("version") = FRSPEC_VERSION;
  nb::register_exception_translator(frspec::translate);
  m.def("default_device", &frspec::default_device,
        "The device where none is named: \"cpu\", or what the environment variable FRSPEC_DEVICE says.");
  m.def("cpu_instruction_sets", &frspec::cpu_instruction_sets,
        "Instruction sets that the CPU backend can use on this machine, best first: ``\"amx\"``, "
        "``\"avx512bf16\"``, ``\"avx512\"``, ``\"avx2vnni\"``, ``\"avx2\"``, ``\"neon\"``, ``\"generic\"``; "
        "builds for tests have ``\"amx-emulated\"``, too, which comes last.\n\nThe environment variable ``FRSPEC_CPU`` "
        "chooses "
        "another one than the first.");
  frspec::init_gguf(m);
  frspec::init_tokenizer(m);
  frspec::init_option_table(m);
  frspec::init_engine(m);
  frspec::init_bench(m);
  frspec::init_translation(m);
}
#undef PyInit__core

extern "C" NB_EXPORT PyObject* PyInit__core() {
  static const std::int64_t first = PyInterpreterState_GetID(PyInterpreterState_Get());
  if (PyInterpreterState_GetID(PyInterpreterState_Get()) == first) return init_core();
  PyErr_SetString(PyExc_ImportError,
                  "frspec_cpp was imported in another interpreter of this process, expected one alone: subinterpreters "
                  "cannot share it");
  return nullptr;
}
