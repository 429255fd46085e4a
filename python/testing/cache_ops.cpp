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
                              int spare, const std::optional<Ints>& pages, const std::string& device) {
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
  const DevicePages table(*backend, pages, static_cast<std::size_t>(length + spare));
  const KvShape shape{parse_kv_type(cache_type), static_cast<int>(cols) / head_dim, head_dim, table.capacity};
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
    append(layer, 0, Rows{.count = prefix_length, .sequence = table.behind(start)}, none);
    append(layer, prefix_length,
           Rows{.count = size,
                .sequence = table.behind(prefix),
                .depth = depth.as<std::int32_t>(),
                .path = path.as<std::int32_t>(),
                .path_stride = tree.max_depth + 1},
           none);
  }
  backend->commit(caches, table.behind(prefix),
                  {.count = accepted.as<std::int32_t>(), .nodes = chosen.as<std::int32_t>()}, {});
  const Buffer out = backend->allocate(query.buffer.bytes());
  const Tensor result = out.matrix(layers, static_cast<std::int64_t>(query.cols));
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const Rows one{.count = 1, .sequence = table.behind(prefix)};
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
  const DevicePages table(*backend, std::nullopt, static_cast<std::size_t>(prefix + count));
  const KvShape shape{KvType::F16, static_cast<int>(keys.cols) / head_dim, head_dim, table.capacity};
  const Buffer key_memory = backend->allocate(backend->kv_bytes(shape));
  const Buffer value_memory = backend->allocate(backend->kv_bytes(shape));
  const Buffer length = to_device(*backend, &prefix, 1);
  const Ints depth = depths.value_or(Ints{});
  const Buffer depth_memory = to_device(*backend, depth.data(), depth.size());
  backend->rope_and_append(queries.view(), keys.view(), values.view(), rope,
                           {key_memory.as<void>(), value_memory.as<void>(), shape},
                           Rows{.count = count,
                                .sequence = table.behind(length),
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

// Several sequences in one pass each: their first keys, one chain behind the other, then what q's rows belong to.
OutputMatrix<float> attend_groups(const std::vector<InputMatrix>& q, const std::vector<InputMatrix>& keys,
                                  const std::vector<InputMatrix>& values, int head_dim, float scale,
                                  const std::vector<std::optional<Ints>>& parents, const std::vector<Ints>& pages,
                                  const InputMatrix& cos, const InputMatrix& sin, const std::string& cache_type,
                                  int n_threads, int window, const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const std::size_t groups = positive(q.size(), "q");
  if (keys.size() != groups || values.size() != groups || parents.size() != groups || pages.size() != groups) {
    fail("attend_groups: found lists of several lengths");
  }
  const DeviceMatrix cosines(*backend, cos), sines(*backend, sin);
  const Rope rope{cosines.view().data, sines.view().data, 2 * static_cast<int>(cosines.cols),
                  static_cast<int>(cosines.rows)};
  std::vector<float> all_q, all_k, all_v, first_k, first_v;
  const auto add = [](std::vector<float>& to, const InputMatrix& from, std::size_t first, std::size_t count) {
    const float* at = from.data() + first * from.shape(1);
    to.insert(to.end(), at, at + count * from.shape(1));
  };
  int stride = 1, capacity = 0;
  std::vector<TreeLayout> trees;
  for (const auto& some : parents) {
    trees.push_back(derive_layout(some.value_or(Ints{})));
    stride = std::max(stride, trees.back().max_depth + 1);
  }
  Ints depth, path;
  std::vector<DevicePages> tables;
  std::vector<Buffer> lengths;
  std::vector<RowGroup> before, rows;
  const std::int32_t zero = 0;
  const Buffer start = to_device(*backend, &zero, 1);
  int first_before = 0, first_row = 0;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::size_t count = q[g].shape(0), length = keys[g].shape(0);
    if (count > length || values[g].shape(0) != length || (parents[g] && parents[g]->size() != count)) {
      fail("attend_groups: sequence ", g, ": found ", count, " queries and ", length, " keys");
    }
    tables.emplace_back(*backend, pages[g], length);
    capacity = std::max(capacity, tables.back().capacity);
    const auto committed = static_cast<std::int32_t>(length - count);
    lengths.push_back(to_device(*backend, &committed, 1));
    add(first_k, keys[g], 0, length - count);
    add(first_v, values[g], 0, length - count);
    add(all_q, q[g], 0, count);
    add(all_k, keys[g], length - count, count);
    add(all_v, values[g], length - count, count);
    before.push_back({tables.back().behind(start), first_before, committed});
    rows.push_back({tables.back().behind(lengths.back()), first_row, static_cast<int>(count), !parents[g]});
    first_before += committed;
    first_row += static_cast<int>(count);
    for (std::size_t r = 0; r < count; ++r) {
      const auto own = static_cast<std::size_t>(trees[g].max_depth) + 1;
      depth.push_back(parents[g] ? trees[g].depth[r] : -1);  // of a chain nobody looks at it
      path.resize(path.size() + static_cast<std::size_t>(stride), -1);
      if (!parents[g]) continue;
      std::copy_n(trees[g].path.begin() + static_cast<std::ptrdiff_t>(r * own), own, path.end() - stride);
    }
  }
  const auto cols = static_cast<std::int64_t>(keys[0].shape(1)), q_cols = static_cast<std::int64_t>(q[0].shape(1));
  const KvShape shape{parse_kv_type(cache_type), static_cast<int>(cols) / head_dim, head_dim, capacity};
  const Buffer key_memory = backend->allocate(backend->kv_bytes(shape));
  const Buffer value_memory = backend->allocate(backend->kv_bytes(shape));
  const KvLayer cache{key_memory.as<void>(), value_memory.as<void>(), shape};
  const auto upload = [&](const auto& from) { return to_device(*backend, from.data(), from.size()); };
  const Buffer k0 = upload(first_k), v0 = upload(first_v), k = upload(all_k), v = upload(all_v), query = upload(all_q);
  const Buffer depths = upload(depth), paths = upload(path);
  backend->rope_and_append(Tensor{}, k0.matrix(first_before, cols), v0.matrix(first_before, cols), rope, cache,
                           Rows{.count = first_before, .sequence = {}, .groups = before});
  const Rows nodes{.count = first_row,
                   .sequence = {},
                   .depth = depths.as<std::int32_t>(),
                   .path = paths.as<std::int32_t>(),
                   .path_stride = stride,
                   .groups = rows};
  const Tensor queries = query.matrix(first_row, q_cols);
  backend->rope_and_append(queries, k.matrix(first_row, cols), v.matrix(first_row, cols), rope, cache, nodes);
  const Buffer out = backend->allocate(query.bytes());
  backend->attend(out.matrix(first_row, q_cols), queries, cache, nodes, {.scale = scale, .window = window});
  return to_host<OutputMatrix<float>, float>(*backend, out,
                                             {static_cast<std::size_t>(first_row), static_cast<std::size_t>(q_cols)});
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
                  "cache_type"_a = "f16", "spare"_a = 0, "pages"_a = nb::none(), "device"_a = default_device(),
                  "Attention of one row behind the accepted ``nodes`` of a tree, in each layer: q (layers, heads * "
                  "head_dim), keys and values (layers * n, kv_heads * head_dim) -> as q. A layer's keys are those of "
                  "the prefix, of the tree and of the row; ``spare`` slots are never used. ``pages`` as those of "
                  "``ops.attend``.")
      .def_static("attend_groups", &attend_groups, "q"_a, "keys"_a, "values"_a, "head_dim"_a, "scale"_a, "parents"_a,
                  "pages"_a, "cos"_a, "sin"_a, "cache_type"_a = "f16", "n_threads"_a = 0, "window"_a = 0,
                  "device"_a = default_device(),
                  "``ops.attend`` of several sequences in one pass, each with pages of its own, with rotated queries "
                  "and keys: lists of what it takes -> the rows of all, one below the other.")
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
