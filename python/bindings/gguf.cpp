// GgufFile and GgufTensor in Python.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "gguf/gguf_file.h"
#include "gguf/gguf_values.h"
#include "gil.h"
#include "tensor/weight_types.h"
#include "text.h"

namespace nb = nanobind;

namespace frspec {
namespace {

using Bytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>, nb::c_contig>;

// What Python sees as GgufFile and GgufTensor: both keep the mapping alive.
struct PyGgufFile {
  std::shared_ptr<const GgufFile> file;
};
struct PyGgufTensor {
  std::shared_ptr<const GgufFile> file;
  const GgufTensor* tensor;
};

nb::object element(const GgufNumberArray& array, std::size_t i) {
  if (array.element == GgufType::Bool) return nb::bool_(gguf_unsigned_at(array, i) != 0);
  if (gguf_is_float(array.element)) return nb::float_(gguf_float_at(array, i));
  if (gguf_is_signed(array.element)) return nb::int_(gguf_signed_at(array, i));
  return nb::int_(gguf_unsigned_at(array, i));
}

struct ToPython {
  nb::object operator()(std::uint64_t value) const { return nb::int_(value); }
  nb::object operator()(std::int64_t value) const { return nb::int_(value); }
  nb::object operator()(double value) const { return nb::float_(value); }
  nb::object operator()(bool value) const { return nb::bool_(value); }
  nb::object operator()(std::string_view value) const { return to_str(value); }
  nb::object operator()(const GgufNumberArray& array) const {
    nb::list list;
    for (std::size_t i = 0; i < array.count; ++i) list.append(element(array, i));
    return list;
  }
  nb::object operator()(const GgufStrings& strings) const {
    nb::list list;
    for (const std::string_view text : strings) list.append(to_str(text));
    return list;
  }
  nb::object operator()(const GgufNestedArray&) const { return nb::none(); }
};

nb::dict metadata(const PyGgufFile& self) {
  nb::dict dict;
  for (const GgufEntry& entry : self.file->metadata()) dict[to_str(entry.key)] = std::visit(ToPython{}, entry.value);
  return dict;
}

nb::list tensors(const PyGgufFile& self) {
  nb::list list;
  for (const GgufTensor& tensor : self.file->tensors()) list.append(nb::cast(PyGgufTensor{self.file, &tensor}));
  return list;
}

nb::tuple shape(const PyGgufTensor& self) {
  nb::list sizes;
  for (int d = 0; d < self.tensor->dims; ++d) sizes.append(self.tensor->shape[static_cast<std::size_t>(d)]);
  return nb::tuple(sizes);
}

Bytes tensor_data(nb::handle self) {
  const GgufTensor& tensor = *nb::cast<const PyGgufTensor&>(self).tensor;
  return Bytes(reinterpret_cast<const std::uint8_t*>(tensor.data), {tensor.bytes}, self);
}

nb::object tensor_repr(const PyGgufTensor& self) {
  return nb::str("GgufTensor({!r}, {}, {})")
      .attr("format")(to_str(self.tensor->name), dtype_name(self.tensor->type), shape(self));
}

}  // namespace

void init_gguf(nb::module_& m) {
  m.def(
      "weight_types",
      [] {
        std::vector<std::string_view> names;
#define NAME(name) names.push_back(#name);
        FRSPEC_WEIGHT_TYPES(NAME)
#undef NAME
        return names;
      },
      "The types that weights may have, as ``GgufTensor.type`` names them.");
  nb::class_<PyGgufTensor>(m, "GgufTensor", "One tensor of a GGUF file.")
      .def_prop_ro(
          "name", [](const PyGgufTensor& self) { return to_str(self.tensor->name); }, nb::sig("def name(self) -> str"),
          "Name of the tensor.")
      .def_prop_ro(
          "type", [](const PyGgufTensor& self) { return dtype_name(self.tensor->type); },
          "Element type, as llama.cpp prints it: ``\"F32\"``, ``\"Q8_0\"`` ...")
      .def_prop_ro("shape", &shape, nb::sig("def shape(self) -> tuple[int, ...]"),
                   "Sizes as in the file, the fastest dimension first: a matrix is ``(cols, rows)``.")
      .def_prop_ro(
          "nbytes", [](const PyGgufTensor& self) { return self.tensor->bytes; }, "Bytes of the data.")
      .def_prop_ro("data", &tensor_data,
                   "The raw data, ``(nbytes,)`` uint8: a read-only view of the mapped file, which it keeps open.")
      .def("__repr__", &tensor_repr, nb::sig("def __repr__(self) -> str"));

  nb::class_<PyGgufFile>(m, "GgufFile",
                         "A GGUF file (version 2 or 3, the first part of a split one included), memory-mapped.\n\n"
                         "Everything is checked while it is opened.\n\n"
                         "Raises:\n"
                         "    FileNotFoundError: The file, or a part of it, is absent or not readable.\n"
                         "    ValueError: It is not a GGUF file, or truncated, or corrupted.\n"
                         "    MemoryError: It is larger than the address space has room for.")
      .def(
          "__init__",
          [](PyGgufFile* self, const std::filesystem::path& path) {
            std::shared_ptr<const GgufFile> file;
            {
              const WithoutGil released;
              file = GgufFile::open(path);
            }
            new (self) PyGgufFile{std::move(file)};
          },
          nb::arg("path"))
      .def_prop_ro(
          "path", [](const PyGgufFile& self) { return self.file->path(); }, "The path it was opened by.")
      .def_prop_ro(
          "version", [](const PyGgufFile& self) { return self.file->version(); }, "GGUF version: 2 or 3.")
      .def_prop_ro(
          "alignment", [](const PyGgufFile& self) { return self.file->alignment(); },
          "Alignment of the tensor data, in bytes.")
      .def_prop_ro("metadata", &metadata, nb::sig("def metadata(self) -> dict[str, object]"),
                   "Key to value, arrays as lists; made anew at each call. Bytes that are not UTF-8 become U+FFFD; an "
                   "array of arrays is None.")
      .def_prop_ro("tensors", &tensors, nb::sig("def tensors(self) -> list[GgufTensor]"), "All tensors in file order.");
}

}  // namespace frspec
