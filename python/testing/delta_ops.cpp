// `_testing.delta_ops`: gated delta layers and their states through passes, for tests of the kernels.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "backend/backend.h"
#include "bindings/arrays.h"
#include "ops_support.h"
#include "tree/draft_tree.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

struct DeltaOps {};

// Rows of a pass that belong to one sequence: which state is its own, which rows of the input they are, their parents
// (none: a chain), and the nodes of the tree that are accepted (none: it is left).
using Group = std::tuple<int, Ints, Ints, Ints>;

// The rows of a pass as a device has them.
struct Pass {
  Pass(Backend& backend, const std::vector<Group>& of, const Buffer& length) {
    std::vector<TreeLayout> trees;
    for (const auto& [state, inputs, parents, accepted] : of) {
      if (!parents.empty() && parents.size() != inputs.size()) fail("parents: found ", parents.size(), " of a tree");
      trees.push_back(derive_layout(parents));
      stride = std::max(stride, trees.back().max_depth + 1);
    }
    Ints depths, paths;
    for (std::size_t g = 0; g < of.size(); ++g) {
      const auto& [state, inputs, parents, accepted] = of[g];
      const bool is_chain = parents.empty();
      groups.push_back({{.length = length.as<std::int32_t>(), .state = state},
                        static_cast<int>(rows.size()),
                        static_cast<int>(inputs.size()),
                        is_chain});
      rows.insert(rows.end(), inputs.begin(), inputs.end());
      kept.push_back(nodes);
      nodes += is_chain ? 0 : static_cast<int>(inputs.size());
      const auto own = static_cast<std::size_t>(trees[g].max_depth) + 1;
      for (std::size_t r = 0; r < inputs.size(); ++r) {
        depths.push_back(is_chain ? -1 : trees[g].depth[r]);  // of a chain nobody looks at it
        paths.resize(paths.size() + static_cast<std::size_t>(stride), -1);
        if (is_chain) continue;
        std::copy_n(trees[g].path.begin() + static_cast<std::ptrdiff_t>(r * own), own, paths.end() - stride);
      }
    }
    depth = to_device(backend, depths.data(), depths.size());
    path = to_device(backend, paths.data(), paths.size());
  }

  Rows view() const {
    Rows view{.count = static_cast<int>(rows.size()),
              .sequence = groups[0].sequence,
              .depth = depth.as<std::int32_t>(),
              .path = path.as<std::int32_t>(),
              .path_stride = stride,
              .groups = groups};
    if (groups.size() > 1) return view;
    const bool is_chain = groups[0].is_chain;  // as a single sequence comes
    view.groups = {};
    if (is_chain) view.depth = view.path = nullptr;
    return view;
  }

  Ints rows;
  std::vector<RowGroup> groups;
  Ints kept;  // where each group's rows are kept, among those of trees
  int nodes = 0, stride = 1;
  Buffer depth, path;
};

// The given rows of a layer's input.
Buffer pick(Backend& backend, const InputMatrix& from, std::size_t first, const Ints& rows) {
  std::vector<float> values;
  for (const std::int32_t row : rows) {
    const float* at = from.data() + (first + static_cast<std::size_t>(row)) * from.shape(1);
    values.insert(values.end(), at, at + from.shape(1));
  }
  return to_device(backend, values.data(), values.size());
}

// Some layers of one shape, with clear states and room for what is kept of so many nodes.
struct Layers {
  Layers(Backend& backend, const DeltaShape& shape, int layers, int states, int nodes) : number(states) {
    const auto floats = [&](std::int64_t rows, std::int64_t of) {
      memory.push_back(backend.allocate(sizeof(float) * static_cast<std::size_t>(rows * of)));
      return memory.back().as<float>();
    };
    for (int layer = 0; layer < layers; ++layer) {
      all.push_back({.shape = shape,
                     .states = floats(states, shape.state_floats()),
                     .inputs = floats(nodes, shape.channels()),
                     .keys = floats(nodes, shape.key_dim()),
                     .deltas = floats(nodes, shape.value_dim()),
                     .decays = floats(nodes, shape.value_heads)});
    }
    for (int state = 0; state < states; ++state) backend.copy_state(all, -1, state);
  }

  OutputMatrix<float> states(Backend& backend) const {
    const auto size = static_cast<std::size_t>(all[0].shape.state_floats()), each = static_cast<std::size_t>(number);
    std::vector<float> values(all.size() * each * size);
    for (std::size_t layer = 0; layer < all.size(); ++layer) {
      backend.download(values.data() + layer * each * size, all[layer].states, each * size * sizeof(float));
    }
    return to_array<OutputMatrix<float>>(std::move(values), {all.size() * each, size});
  }

  std::vector<DeltaLayer> all;
  std::vector<Buffer> memory;
  int number;
};

void check(const char* name, std::size_t found, std::int64_t expected) {
  if (!std::cmp_equal(found, expected)) fail(name, ": found ", found, ", expected ", expected);
}

// The projections of n rows for each layer, one layer below the other.
struct Inputs {
  const InputMatrix &mixed, &gate, &decay, &strength;

  void check_shape(const DeltaShape& shape, int layers) const {
    check("mixed", mixed.shape(1), shape.channels());
    check("gate", gate.shape(1), shape.value_dim());
    for (const InputMatrix* logits : {&decay, &strength}) check("logits", logits->shape(1), shape.value_heads);
    for (const InputMatrix* rows : {&gate, &decay, &strength}) {
      check("rows", rows->shape(0), static_cast<std::int64_t>(mixed.shape(0)));
    }
    if (mixed.shape(0) % static_cast<std::size_t>(layers) != 0) fail("rows: found ", mixed.shape(0), " of ", layers);
  }

  // What a pass gives in a layer whose rows begin with row `first`, to (rows, value_dim).
  void run(Backend& backend, const DeltaRule& rule, const DeltaLayer& layer, std::size_t first, const Pass& pass,
           float* to) const {
    const auto rows = static_cast<std::int64_t>(pass.rows.size());
    const Buffer m = pick(backend, mixed, first, pass.rows), g = pick(backend, gate, first, pass.rows);
    const Buffer d = pick(backend, decay, first, pass.rows), s = pick(backend, strength, first, pass.rows);
    const Buffer out = backend.allocate(g.bytes());
    backend.run_delta(out.matrix(rows, layer.shape.value_dim()),
                      {.mixed = m.matrix(rows, layer.shape.channels()),
                       .gate = g.matrix(rows, layer.shape.value_dim()),
                       .decay = d.matrix(rows, layer.shape.value_heads),
                       .strength = s.matrix(rows, layer.shape.value_heads)},
                      rule, layer, pass.view());
    backend.download(to, out.as<void>(), out.bytes());
  }
};

void commit(Backend& backend, const Layers& layers, const SequenceView& sequence, const Ints& accepted, int kept) {
  if (accepted.empty()) return;
  const auto count = static_cast<std::int32_t>(accepted.size());
  const Buffer number = to_device(backend, &count, 1), nodes = to_device(backend, accepted.data(), accepted.size());
  backend.commit_states(layers.all, sequence, {.count = number.as<std::int32_t>(), .nodes = nodes.as<std::int32_t>()},
                        kept);
  backend.wait();  // for what lies in these buffers
}

std::pair<OutputMatrix<float>, OutputMatrix<float>> run(const InputMatrix& mixed, const InputMatrix& gate,
                                                        const InputMatrix& decay, const InputMatrix& strength,
                                                        const InputMatrix& taps, const InputVector& rate,
                                                        const InputVector& bias, const InputVector& norm, int key_heads,
                                                        const std::vector<std::vector<Group>>& passes, int layers,
                                                        float epsilon, int n_threads, const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const DeltaShape shape{key_heads, static_cast<int>(rate.size()), static_cast<int>(norm.size()),
                         static_cast<int>(taps.shape(0))};
  if (key_heads < 1 || shape.value_heads % key_heads != 0 || shape.head_dim % kDeltaUnit != 0 || layers < 1) {
    fail("run: found shapes that do not belong together");
  }
  const Inputs inputs{mixed, gate, decay, strength};
  inputs.check_shape(shape, layers);
  check("taps", taps.shape(1), shape.channels());
  check("bias", bias.size(), shape.value_heads);
  const std::size_t count = mixed.shape(0) / static_cast<std::size_t>(layers);
  const std::int32_t zero = 0;
  const Buffer length = to_device(*backend, &zero, 1);
  std::vector<Pass> all;
  int states = 1, nodes = 0;
  std::size_t given = 0;
  for (const auto& groups : passes) {
    if (groups.empty()) fail("passes: found one without rows");
    const Pass& pass = all.emplace_back(*backend, groups, length);
    nodes = std::max(nodes, pass.nodes);
    given += pass.rows.size();
    for (const RowGroup& group : pass.groups) states = std::max(states, group.sequence.state + 1);
    for (const std::int32_t row : pass.rows) {
      if (row < 0 || std::cmp_greater_equal(row, count)) fail("rows: found ", row, ", expected 0 to ", count - 1);
    }
  }
  const Layers held(*backend, shape, layers, states, nodes);
  const DeviceMatrix weights(*backend, taps);
  const Buffer rates = to_device(*backend, rate.data(), rate.size());
  const Buffer biases = to_device(*backend, bias.data(), bias.size());
  const Buffer norms = to_device(*backend, norm.data(), norm.size());
  const DeltaRule rule{weights.view().data, rates.as<float>(), biases.as<float>(), norms.as<float>(), epsilon};
  const std::size_t width = norm.size() * rate.size();
  std::vector<float> outputs(held.all.size() * given * width);
  std::size_t first = 0;  // row of the output
  for (std::size_t p = 0; p < all.size(); ++p) {
    const Pass& pass = all[p];
    for (std::size_t layer = 0; layer < held.all.size(); ++layer) {
      inputs.run(*backend, rule, held.all[layer], layer * count, pass,
                 outputs.data() + (layer * given + first) * width);
    }
    first += pass.rows.size();
    for (std::size_t g = 0; g < pass.groups.size(); ++g) {
      commit(*backend, held, pass.groups[g].sequence, std::get<3>(passes[p][g]), pass.kept[g]);
    }
  }
  return {to_array<OutputMatrix<float>>(std::move(outputs), {held.all.size() * given, width}), held.states(*backend)};
}

}  // namespace

void init_delta_ops(nb::module_& m) {
  nb::class_<DeltaOps>(m, "delta_ops", "Gated delta layers through passes, for tests of the kernels.")
      .def_static(
          "run", &run, "mixed"_a, "gate"_a, "decay"_a, "strength"_a, "taps"_a, "rate"_a, "bias"_a, "norm"_a,
          "key_heads"_a, "passes"_a, "layers"_a = 1, "epsilon"_a = 1e-6f, "n_threads"_a = 1,
          "device"_a = default_device(),
          "Rows of texts through some layers, pass after pass: the projections of n rows for each layer, one "
          "layer below the other, and weights that all layers have. A pass is a list of sequences: (state, rows, "
          "parents, accepted): a chain without parents, a tree of which the accepted nodes stay. Gives the "
          "outputs of all passes' rows (layers * rows, value_dim), and all states as the backend lays them out, "
          "the window of the convolution first: (layers * states, state_floats).");
}

}  // namespace frspec
