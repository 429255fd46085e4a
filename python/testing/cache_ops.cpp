// `_core.cache_ops`: the K/V cache through a step, and small layers on parts of matrices, for tests of the kernels.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "backend/backend.h"
#include "bindings/arrays.h"
#include "engine/options.h"
#include "ops_support.h"
#include "tree/draft_tree.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

struct CacheOps {};

// A prefix, a tree behind it, of which some nodes are accepted, then one more row, which attends. For each layer.
OutputMatrix<float> committed(const InputMatrix& q, const InputMatrix& keys, const InputMatrix& values, int head_dim,
                              float scale, const Ints& parents, const Ints& nodes, const std::string& cache_type,
                              int spare, const std::string& device) {
  const auto backend = make_backend({device, 1});
  const auto layers = static_cast<std::int64_t>(q.shape(0));
  const auto cols = static_cast<std::int64_t>(keys.shape(1));
  if (layers == 0 || keys.shape(0) % q.shape(0) != 0 || values.shape(0) != keys.shape(0) || head_dim < 1 ||
      cols % head_dim != 0 || nodes.empty()) {
    fail("committed: found shapes that do not belong together");
  }
  const auto length = static_cast<std::int32_t>(keys.shape(0) / q.shape(0)), size = static_cast<int>(parents.size());
  const std::int32_t prefix_length = length - 1 - size, zero = 0, count = static_cast<std::int32_t>(nodes.size());
  if (prefix_length < 0) fail("committed: found ", length, " keys for ", size, " nodes and one row more");
  const KvShape shape{parse_kv_type(cache_type), static_cast<int>(cols) / head_dim, head_dim, length + spare};
  const DeviceMatrix k(*backend, keys), v(*backend, values), query(*backend, q);
  const Buffer start = to_device(*backend, &zero, 1), prefix = to_device(*backend, &prefix_length, 1);
  const Buffer accepted = to_device(*backend, &count, 1), chosen = to_device(*backend, nodes.data(), nodes.size());
  const TreeLayout tree = derive_layout(parents);
  const Buffer depth = to_device(*backend, tree.depth.data(), tree.depth.size());
  const Buffer path = to_device(*backend, tree.path.data(), tree.path.size());

  std::vector<Buffer> memory;
  std::vector<KvLayer> caches;
  const auto append = [&](std::int64_t layer, std::int32_t first, const Rows& rows, Tensor queries) {
    const std::int64_t at = layer * length + first;
    backend->rope_and_append(queries, k.view().row_range(at, rows.count), v.view().row_range(at, rows.count), Rope{},
                             caches[static_cast<std::size_t>(layer)], rows);
  };
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (int i = 0; i < 2; ++i) memory.push_back(backend->allocate(backend->kv_bytes(shape)));
    caches.push_back({memory[memory.size() - 2].as<void>(), memory.back().as<void>(), shape});
    const Tensor none = query.view().first_rows(0);
    append(layer, 0, Rows{.count = prefix_length, .prefix = start.as<std::int32_t>()}, none);
    append(layer, prefix_length,
           Rows{.count = size,
                .prefix = prefix.as<std::int32_t>(),
                .depth = depth.as<std::int32_t>(),
                .path = path.as<std::int32_t>(),
                .path_stride = tree.max_depth + 1},
           none);
  }
  backend->compact(caches, prefix.as<std::int32_t>(),
                   VerdictView{accepted.as<std::int32_t>(), chosen.as<std::int32_t>(), nullptr});
  backend->advance(prefix.as<std::int32_t>(), accepted.as<std::int32_t>());
  const Buffer out = backend->allocate(query.buffer.bytes());
  const Tensor result = out.matrix(layers, static_cast<std::int64_t>(query.cols));
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const Rows one{.count = 1, .prefix = prefix.as<std::int32_t>()};
    const Tensor row = query.view().row_range(layer, 1);
    append(layer, length - 1, one, row);
    backend->attend(result.row_range(layer, 1), row, caches[static_cast<std::size_t>(layer)], one, {.scale = scale});
  }
  return to_host<OutputMatrix<float>, float>(*backend, out, {query.rows, query.cols});
}

std::pair<OutputMatrix<float>, OutputMatrix<float>> rotated(const InputMatrix& q, const InputMatrix& k, int head_dim,
                                                            const InputMatrix& cos, const InputMatrix& sin,
                                                            bool interleaved, int prefix,
                                                            const std::optional<Ints>& depths,
                                                            const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DeviceMatrix queries(*backend, q), keys(*backend, k), values(*backend, k);
  const DeviceMatrix cosines(*backend, cos), sines(*backend, sin);
  const Rope rope{cosines.view().data, sines.view().data, 2 * static_cast<int>(cosines.cols),
                  static_cast<int>(cosines.rows), interleaved};
  const auto count = static_cast<int>(queries.rows);
  const KvShape shape{KvType::F16, static_cast<int>(keys.cols) / head_dim, head_dim, prefix + count};
  const Buffer key_memory = backend->allocate(backend->kv_bytes(shape));
  const Buffer value_memory = backend->allocate(backend->kv_bytes(shape));
  const Buffer length = to_device(*backend, &prefix, 1);
  const Ints depth = depths.value_or(Ints{});
  const Buffer depth_memory = to_device(*backend, depth.data(), depth.size());
  backend->rope_and_append(queries.view(), keys.view(), values.view(), rope,
                           {key_memory.as<void>(), value_memory.as<void>(), shape},
                           Rows{.count = count,
                                .prefix = length.as<std::int32_t>(),
                                .depth = depths ? depth_memory.as<std::int32_t>() : nullptr});
  return {to_host<OutputMatrix<float>, float>(*backend, queries.buffer, {queries.rows, queries.cols}),
          to_host<OutputMatrix<float>, float>(*backend, keys.buffer, {keys.rows, keys.cols})};
}

OutputMatrix<float> gather_rows(const InputMatrix& x, const std::optional<Ints>& rows, const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DeviceMatrix input(*backend, x);
  const std::size_t count = rows ? rows->size() : input.rows;
  const Buffer out = backend->allocate(count * input.cols * sizeof(float));
  const Tensor result = out.matrix(static_cast<std::int64_t>(count), static_cast<std::int64_t>(input.cols));
  const Buffer wanted = to_device(*backend, rows ? rows->data() : nullptr, rows ? count : 0);
  rows ? backend->gather_rows(result, input.view(), wanted.as<std::int32_t>()) : backend->copy(result, input.view());
  return to_host<OutputMatrix<float>, float>(*backend, out, {count, input.cols});
}

// In place.
OutputMatrix<float> norm_columns(const InputMatrix& x, int first, const InputVector& weight, float epsilon,
                                 const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DeviceMatrix input(*backend, x);
  const Buffer scale = to_device(*backend, weight.data(), weight.size());
  if (first < 0 || first + weight.size() > input.cols) fail("first: found ", first, ", beyond the columns of x");
  const Tensor part = input.view().col_range(first, static_cast<std::int64_t>(weight.size()));
  backend->rms_norm(part, part, scale.as<float>(), epsilon);
  return to_host<OutputMatrix<float>, float>(*backend, input.buffer, {input.rows, input.cols});
}

}  // namespace

void init_cache_ops(nb::module_& m) {
  nb::class_<CacheOps>(m, "cache_ops", "The K/V cache through a step, and small layers, for tests of the kernels.")
      .def_static("committed", &committed, "q"_a, "keys"_a, "values"_a, "head_dim"_a, "scale"_a, "parents"_a, "nodes"_a,
                  "cache_type"_a = "f16", "spare"_a = 0, "device"_a = default_device(),
                  "Attention of one row behind the accepted ``nodes`` of a tree, in each layer: q (layers, heads * "
                  "head_dim), keys and values (layers * n, kv_heads * head_dim) -> as q. A layer's keys are those of "
                  "the prefix, of the tree and of the row; ``spare`` slots are never used.")
      .def_static("rotated", &rotated, "q"_a, "k"_a, "head_dim"_a, "cos"_a, "sin"_a, "interleaved"_a, "prefix"_a,
                  "depths"_a = nb::none(), "device"_a = default_device(),
                  "Rows rotated by their positions behind ``prefix``; angles are (positions, dims / 2).")
      .def_static("gather_rows", &gather_rows, "x"_a, "rows"_a = nb::none(), "device"_a = default_device(),
                  "The given rows, or a copy of all.")
      .def_static("norm_columns", &norm_columns, "x"_a, "first"_a, "weight"_a, "epsilon"_a,
                  "device"_a = default_device(),
                  "x with the columns from ``first`` on RMS-normed in place, as many as there are weights.");
}

}  // namespace frspec
