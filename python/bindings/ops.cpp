// `_core.ops`: single operations of a backend on arrays of the host, for tests of the kernels.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "backend/backend.h"
#include "base/error.h"
#include "base/random.h"
#include "gguf/gguf_file.h"
#include "verify/sampler.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Ints = std::vector<std::int32_t>;

struct Ops {};

WeightSource open_source(const std::filesystem::path& path, const std::string& name) {
  auto file = GgufFile::open(path);
  const GgufTensor& tensor = file->tensor(name);
  return {file->path().string(), name, tensor.type, tensor.rows(), tensor.cols(), tensor.data, file};
}

std::size_t positive(std::size_t value, const char* name) {
  if (value == 0) fail(name, ": found 0, expected at least 1");
  return value;
}

template <class T>
Buffer to_device(Backend& backend, const T* values, std::size_t count) {
  Buffer buffer = backend.allocate(count * sizeof(T));
  backend.upload(buffer.as<void>(), values, count * sizeof(T));
  return buffer;
}

// A matrix in the backend's memory, and back.
struct DeviceMatrix {
  DeviceMatrix(Backend& backend, const InputMatrix& host)
      : buffer(to_device(backend, host.data(), host.size())), rows(host.shape(0)), cols(host.shape(1)) {}

  Tensor view() const { return buffer.matrix(static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols)); }

  Buffer buffer;
  std::size_t rows, cols;
};

template <class Array, class T>
Array to_host(Backend& backend, const Buffer& buffer, std::initializer_list<std::size_t> shape) {
  std::size_t count = 1;
  for (const std::size_t size : shape) count *= size;
  std::vector<T> values(count);
  backend.download(values.data(), buffer.as<void>(), count * sizeof(T));
  return to_array<Array>(std::move(values), shape);
}

OutputMatrix<float> dequantize(const std::filesystem::path& path, const std::string& tensor,
                               const std::string& device) {
  const auto backend = make_backend({device, 1});
  const WeightSource source = open_source(path, tensor);
  const auto rows = static_cast<std::size_t>(source.rows), cols = static_cast<std::size_t>(source.cols);
  std::vector<float> values(rows * cols);
  for (std::size_t row = 0; row < rows; ++row) {
    backend->dequantize(values.data() + row * cols, source, static_cast<std::int64_t>(row));
  }
  return to_array<OutputMatrix<float>>(std::move(values), {rows, cols});
}

OutputMatrix<float> matmul(const std::filesystem::path& path, const std::string& tensor, const InputMatrix& x,
                           const std::optional<Ints>& rows, int n_threads, const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const WeightSource source = open_source(path, tensor);
  if (x.shape(1) != static_cast<std::size_t>(source.cols)) {
    fail("x: found ", x.shape(1), " columns, expected ", source.cols, ", those of tensor '", tensor, "'");
  }
  positive(x.shape(0), "rows of x");
  for (const std::int32_t row : rows.value_or(Ints{})) {
    if (row < 0 || row >= source.rows) fail("rows: found ", row, ", expected 0 to ", source.rows - 1);
  }
  const auto weight = rows ? backend->load_rows(source, *rows) : backend->load(source);
  const DeviceMatrix input(*backend, x);
  const Buffer out = backend->allocate(input.rows * static_cast<std::size_t>(weight->rows()) * sizeof(float));
  const Projection projection{.out = out.matrix(static_cast<std::int64_t>(input.rows), weight->rows()),
                              .weight = weight.get()};
  backend->matmul({input.view()}, {&projection, 1});
  return to_host<OutputMatrix<float>, float>(*backend, out, {input.rows, static_cast<std::size_t>(weight->rows())});
}

OutputMatrix<float> embed(const std::filesystem::path& path, const std::string& tensor, const Ints& ids, bool packed,
                          const std::string& device) {
  const auto backend = make_backend({device, 1});
  const WeightSource source = open_source(path, tensor);
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= source.rows) fail("ids: found ", id, ", expected 0 to ", source.rows - 1);
  }
  const auto table = packed ? backend->load(source) : backend->load_table(source);
  const Buffer wanted = to_device(*backend, ids.data(), ids.size());
  const auto cols = static_cast<std::size_t>(source.cols);
  const Buffer out = backend->allocate(ids.size() * cols * sizeof(float));
  backend->embed(out.matrix(static_cast<std::int64_t>(ids.size()), source.cols), *table, wanted.as<std::int32_t>());
  return to_host<OutputMatrix<float>, float>(*backend, out, {ids.size(), cols});
}

OutputMatrix<float> rms_norm(const InputMatrix& x, const InputVector& weight, float epsilon,
                             const std::string& device) {
  const auto backend = make_backend({device, 1});
  if (weight.size() != x.shape(1)) fail("weight: found ", weight.size(), " values, expected ", x.shape(1));
  const DeviceMatrix input(*backend, x);
  const Buffer scale = to_device(*backend, weight.data(), weight.size());
  const Buffer out = backend->allocate(input.buffer.bytes());
  backend->rms_norm(out.matrix(static_cast<std::int64_t>(input.rows), static_cast<std::int64_t>(input.cols)),
                    input.view(), scale.as<float>(), epsilon);
  return to_host<OutputMatrix<float>, float>(*backend, out, {input.rows, input.cols});
}

std::pair<OutputMatrix<std::int32_t>, OutputMatrix<float>> top_k(const InputMatrix& logits, int k,
                                                                 const std::optional<Ints>& column_ids, int n_threads,
                                                                 const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const DeviceMatrix input(*backend, logits);
  if (k < 1 || static_cast<std::size_t>(k) > input.cols) fail("k: found ", k, ", expected 1 to ", input.cols);
  if (column_ids && column_ids->size() != input.cols) {
    fail("column_ids: found ", column_ids->size(), " ids, expected ", input.cols);
  }
  const Buffer columns = column_ids ? to_device(*backend, column_ids->data(), column_ids->size()) : Buffer();
  const std::size_t width = static_cast<std::size_t>(k), count = input.rows * width;
  const Buffer ids = backend->allocate(count * sizeof(std::int32_t));
  const Buffer log_probs = backend->allocate(count * sizeof(float));
  backend->top_k(ids.as<std::int32_t>(), log_probs.as<float>(), k, input.view(), columns.as<std::int32_t>());
  return {to_host<OutputMatrix<std::int32_t>, std::int32_t>(*backend, ids, {input.rows, width}),
          to_host<OutputMatrix<float>, float>(*backend, log_probs, {input.rows, width})};
}

// The position before the one that each row chooses a token for; without positions the rows are a chain from 0 on.
Ints row_depths(const std::optional<Ints>& positions, std::size_t rows) {
  Ints depths(rows);
  if (!positions) {
    std::iota(depths.begin(), depths.end(), 0);
    return depths;
  }
  if (positions->size() != rows) fail("positions: found ", positions->size(), ", expected ", rows);
  for (std::size_t row = 0; row < rows; ++row) {
    if ((*positions)[row] < 1) fail("positions: found ", (*positions)[row], ", expected at least 1");
    depths[row] = (*positions)[row] - 1;
  }
  return depths;
}

OutputVector<std::int32_t> sample(const InputMatrix& logits, float temperature, std::uint64_t seed,
                                  const std::optional<Ints>& positions, int n_threads, const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const DeviceMatrix input(*backend, logits);
  positive(input.cols, "columns of logits");
  const Ints depths = row_depths(positions, input.rows);
  const std::int32_t zero = 0;
  const Buffer prefix = to_device(*backend, &zero, 1);
  const Buffer depth = to_device(*backend, depths.data(), depths.size());
  const Buffer tokens = backend->allocate(depths.size() * sizeof(std::int32_t));
  const Rows rows{
      .count = static_cast<int>(input.rows), .prefix = prefix.as<std::int32_t>(), .depth = depth.as<std::int32_t>()};
  backend->sample(tokens.as<std::int32_t>(), input.view(), rows, make_sampling({temperature, seed}));
  return to_host<OutputVector<std::int32_t>, std::int32_t>(*backend, tokens, {input.rows});
}

OutputVector<float> gumbel_noise(std::uint64_t seed, std::uint64_t position, const std::vector<std::uint32_t>& tokens) {
  std::vector<float> noise(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) noise[i] = gumbel(seed, position, tokens[i]);
  return to_array<OutputVector<float>>(std::move(noise), {tokens.size()});
}

}  // namespace

void init_ops(nb::module_& m) {
  // A class, not a submodule: the type stub is one file.
  nb::class_<Ops>(m, "ops", "Single operations of a backend, for tests of the kernels.")
      .def_static("dequantize", &dequantize, "path"_a, "tensor"_a, "device"_a = "cpu",
                  "The values of a tensor of a GGUF file: (rows, cols) float32.")
      .def_static(
          "device", [](const std::string& device) { return make_backend({device, 1})->description(); },
          "device"_a = "cpu", "The backend's description, with the instruction set.")
      .def_static("embed", &embed, "path"_a, "tensor"_a, "ids"_a, "packed"_a = true, "device"_a = "cpu",
                  "The given rows of a tensor, looked up in its packed form or in the file: (len(ids), cols) float32.")
      .def_static("matmul", &matmul, "path"_a, "tensor"_a, "x"_a, "rows"_a = nb::none(), "n_threads"_a = 0,
                  "device"_a = "cpu",
                  "x W^T for a tensor W of a GGUF file, or for the given rows of it: (m, k) float32 -> (m, n) float32.")
      .def_static("rms_norm", &rms_norm, "x"_a, "weight"_a, "epsilon"_a, "device"_a = "cpu",
                  "x / sqrt(mean(x^2) + epsilon) * weight, by row: (m, k), (k,) float32 -> (m, k) float32.")
      .def_static("top_k", &top_k, "logits"_a, "k"_a, "column_ids"_a = nb::none(), "n_threads"_a = 0,
                  "device"_a = "cpu",
                  "The k best columns of each row, best first: ids (m, k) int32 and log-softmax (m, k) float32.\n\n"
                  "``column_ids`` (ascending) names the columns; without it they are their own ids.")
      .def_static("sample", &sample, "logits"_a, "temperature"_a = 0.0F, "seed"_a = 0, "positions"_a = nb::none(),
                  "n_threads"_a = 0, "device"_a = "cpu",
                  "The token that each row (m, V) chooses by argmax(logits / temperature + noise): (m,) int32.\n\n"
                  "``positions`` are those that the tokens would take; default: 1, 2, ... m.")
      .def_static("gumbel", &gumbel_noise, "seed"_a, "position"_a, "tokens"_a,
                  "The noise of tokens at an absolute position: (len(tokens),) float32.");
}

}  // namespace frspec
