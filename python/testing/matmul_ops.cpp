// `_core.matmul_ops`: matrix products with all that a layer asks of them, on arrays of the host, for tests.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.h"
#include "ops_support.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

struct MatmulOps {};

// One call with a projection for each tensor.
std::vector<OutputMatrix<float>> project(const std::filesystem::path& path, const std::vector<std::string>& tensors,
                                         const InputMatrix& x, const std::optional<InputVector>& norm, float epsilon,
                                         const std::optional<InputMatrix>& up, const std::vector<InputVector>& biases,
                                         const std::vector<InputMatrix>& starts, int activation,
                                         const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DeviceMatrix input(*backend, x);
  Operand operand{.x = input.view(), .epsilon = epsilon};
  if (norm && norm->size() != input.cols) fail("norm: found ", norm->size(), " values, expected ", input.cols);
  if (up && (up->shape(0) != input.rows || up->shape(1) != input.cols)) fail("up: expected the shape of x");
  if (!biases.empty() && biases.size() != tensors.size()) fail("biases: expected one for each tensor");
  if (!starts.empty() && starts.size() != tensors.size()) fail("starts: expected one for each tensor");
  const Buffer norm_memory = norm ? to_device(*backend, norm->data(), norm->size()) : Buffer();
  const Buffer up_memory = up ? to_device(*backend, up->data(), up->size()) : Buffer();
  operand.norm = norm_memory.as<float>();
  operand.up = up_memory.as<float>();
  if (activation < 0 || activation > 2) fail("activation: found ", activation, ", expected 0 to 2");
  operand.activation = static_cast<Activation>(activation);
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<Buffer> outs, bias_memory;
  std::vector<Projection> projections;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const WeightSource source = open_source(path, tensors[i]);
    if (source.cols != operand.x.cols) fail("tensor '", tensors[i], "': found ", source.cols, " columns");
    weights.push_back(backend->load(source));
    const auto columns = static_cast<std::size_t>(source.rows);
    if (!biases.empty() && biases[i].size() != columns) fail("biases: expected ", columns, " values");
    if (!starts.empty() && (starts[i].shape(0) != input.rows || starts[i].shape(1) != columns)) {
      fail("starts: expected the shape of the result");
    }
    bias_memory.push_back(biases.empty() ? Buffer() : to_device(*backend, biases[i].data(), columns));
    outs.push_back(starts.empty() ? backend->allocate(input.rows * columns * sizeof(float))
                                  : to_device(*backend, starts[i].data(), input.rows * columns));
    projections.push_back({.out = outs.back().matrix(operand.x.rows, source.rows),
                           .weight = weights.back().get(),
                           .bias = bias_memory.back().as<float>(),
                           .accumulate = !starts.empty()});
  }
  backend->matmul(operand, projections);
  std::vector<OutputMatrix<float>> results;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    results.push_back(to_host<OutputMatrix<float>, float>(*backend, outs[i],
                                                          {input.rows, static_cast<std::size_t>(weights[i]->rows())}));
  }
  return results;
}

// The feed-forward of experts, each of whose matrices is a tensor of its own.
OutputMatrix<float> run_experts(const std::filesystem::path& path, const std::vector<std::string>& gate,
                                const std::vector<std::string>& up, const std::vector<std::string>& down,
                                const InputMatrix& x, const InputMatrix& scores, int used, int activation,
                                const std::vector<InputVector>& biases, int n_threads, const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const DeviceMatrix input(*backend, x), of_router(*backend, scores);
  if (scores.shape(0) != x.shape(0) || scores.shape(1) != gate.size()) fail("scores: expected one for row and expert");
  if (!biases.empty() && biases.size() != 3) fail("biases: found ", biases.size(), ", expected 3, or none");
  std::vector<std::unique_ptr<Weight>> weights;
  for (const auto* names : {&gate, &up, &down}) {
    std::vector<WeightSource> each;
    for (const std::string& name : *names) each.push_back(open_source(path, name));
    weights.push_back(backend->load_experts(each));
  }
  std::vector<Buffer> memory;
  for (const InputVector& bias : biases) memory.push_back(to_device(*backend, bias.data(), bias.size()));
  memory.resize(3);
  const Experts experts{.gate = weights[0].get(),
                        .up = weights[1].get(),
                        .down = weights[2].get(),
                        .gate_bias = memory[0].as<float>(),
                        .up_bias = memory[1].as<float>(),
                        .down_bias = memory[2].as<float>(),
                        .used = used,
                        .activation = static_cast<Activation>(activation)};
  const Buffer out = backend->allocate(input.rows * input.cols * sizeof(float));
  const auto rows = static_cast<std::int64_t>(input.rows), cols = static_cast<std::int64_t>(input.cols);
  backend->run_experts(out.matrix(rows, cols), input.view(), of_router.view(), experts);
  return to_host<OutputMatrix<float>, float>(*backend, out, {input.rows, input.cols});
}

OutputMatrix<float> add(const InputMatrix& x, const InputMatrix& y, const std::optional<InputVector>& norm,
                        float epsilon, float scale, int n_threads, const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const DeviceMatrix to(*backend, x), from(*backend, y);
  if (to.rows != from.rows || to.cols != from.cols) fail("y: expected the shape of x");
  if (norm && norm->size() != to.cols) fail("norm: found ", norm->size(), " values, expected ", to.cols);
  const Buffer memory = norm ? to_device(*backend, norm->data(), norm->size()) : Buffer();
  backend->add(to.view(), from.view(), memory.as<float>(), epsilon, scale);
  return to_host<OutputMatrix<float>, float>(*backend, to.buffer, {to.rows, to.cols});
}

std::vector<double> ceilings(const std::filesystem::path& path, const std::vector<std::string>& tensors,
                             const std::string& device) {
  const auto backend = make_backend({device, 1});
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<const Weight*> all;
  for (const std::string& name : tensors) {
    weights.push_back(backend->load(open_source(path, name)));
    all.push_back(weights.back().get());
  }
  std::vector<double> found(1 + kArithmetics);
  found[0] = backend->instruments().measure_reading(all);
  backend->instruments().measure_arithmetic(found.data() + 1);
  return found;
}

}  // namespace

void init_matmul_ops(nb::module_& m) {
  nb::class_<MatmulOps>(m, "matmul_ops", "Matrix products as layers ask for them, for tests of the kernels.")
      .def_static(
          "project", &project, "path"_a, "tensors"_a, "x"_a, "norm"_a = nb::none(), "epsilon"_a = 0.0F,
          "up"_a = nb::none(), "biases"_a = std::vector<InputVector>(), "starts"_a = std::vector<InputMatrix>(),
          "activation"_a = 0, "device"_a = default_device(),
          "One call of matmul with a projection for each tensor W of a GGUF file: x W^T + bias, added to "
          "``starts`` where they are given; x is RMS-normed, or activated (0: silu(x) * up, 1: gelu, 2: gpt-oss's).")
      .def_static(
          "run_experts", &run_experts, "path"_a, "gate"_a, "up"_a, "down"_a, "x"_a, "scores"_a, "used"_a,
          "activation"_a = 0, "biases"_a = std::vector<InputVector>(), "n_threads"_a = 1, "device"_a = default_device(),
          "The feed-forward of the ``used`` best experts of each row; ``gate``, ``up`` and ``down`` name a tensor "
          "for each expert, ``biases`` are those of gate, up and down, expert after expert.")
      .def_static("add", &add, "x"_a, "y"_a, "norm"_a = nb::none(), "epsilon"_a = 0.0F, "scale"_a = 1.0F,
                  "n_threads"_a = 1, "device"_a = default_device(), "x + scale * y, or scale * RMS-normed y.")
      .def_static("ceilings", &ceilings, "path"_a, "tensors"_a, "device"_a = default_device(),
                  "Bytes per second that are read of these tensors, and multiply-adds per second in each arithmetic.");
}

}  // namespace frspec
