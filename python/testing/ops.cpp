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

#include "backend/backend.h"
#include "base/error.h"
#include "base/random.h"
#include "bindings/arrays.h"
#include "bindings/option_table.h"
#include "engine/options.h"
#include "ops_support.h"
#include "tree/draft_tree.h"
#include "verify/sampler.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

struct Ops {};

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
                          float scale, const std::string& device) {
  const auto backend = make_backend({device, 1});
  const WeightSource source = open_source(path, tensor);
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= source.rows) fail("ids: found ", id, ", expected 0 to ", source.rows - 1);
  }
  const auto table = packed ? backend->load(source) : backend->load_table(source);
  const Buffer wanted = to_device(*backend, ids.data(), ids.size());
  const auto cols = static_cast<std::size_t>(source.cols);
  const Buffer out = backend->allocate(ids.size() * cols * sizeof(float));
  backend->embed(out.matrix(static_cast<std::int64_t>(ids.size()), source.cols), *table, wanted.as<std::int32_t>(),
                 scale);
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

Best best_of_logits(const InputMatrix& logits, int k, const std::optional<Ints>& column_ids, int n_threads,
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

Best head_top_k(const std::filesystem::path& path, const std::string& tensor, const InputMatrix& hidden, int k,
                int n_threads, const std::string& device) {
  const Head head(path, tensor, hidden, n_threads, device);
  if (k < 1 || k > head.weight->rows()) fail("k: found ", k, ", expected 1 to ", head.weight->rows());
  const std::size_t rows = head.hidden->rows, width = static_cast<std::size_t>(k);
  const Buffer ids = head.backend->allocate(rows * width * sizeof(std::int32_t));
  const Buffer log_probs = head.backend->allocate(rows * width * sizeof(float));
  head.backend->head_top_k({.ids = ids.as<std::int32_t>(), .scores = log_probs.as<float>(), .k = k},
                           head.hidden->view(), {.weight = head.weight.get()}, nullptr);
  return {to_host<OutputMatrix<std::int32_t>, std::int32_t>(*head.backend, ids, {rows, width}),
          to_host<OutputMatrix<float>, float>(*head.backend, log_probs, {rows, width})};
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

// Calls choose(tokens, rows) for rows of a chain, or of the given positions.
template <class Choose>
OutputVector<std::int32_t> choose_tokens(Backend& backend, std::size_t count, const std::optional<Ints>& positions,
                                         Choose&& choose) {
  const Ints depths = row_depths(positions, count);
  const std::int32_t zero = 0;
  const Buffer prefix = to_device(backend, &zero, 1);
  const Buffer depth = to_device(backend, depths.data(), depths.size());
  const Buffer tokens = backend.allocate(count * sizeof(std::int32_t));
  choose(tokens.as<std::int32_t>(), Rows{.count = static_cast<int>(count),
                                         .sequence = {.length = prefix.as<std::int32_t>()},
                                         .depth = depth.as<std::int32_t>()});
  return to_host<OutputVector<std::int32_t>, std::int32_t>(backend, tokens, {count});
}

Sampling checked_draw(float temperature, std::uint64_t seed) {
  SamplingOptions options;
  options.temperature = temperature;
  check_sampling(options);
  return {temperature, seed};
}

// Every row follows the tokens of `history`.
OutputMatrix<float> process(const InputMatrix& logits, const Ints& history, const std::string& device,
                            const nb::kwargs& keywords) {
  const GenerateOptions options = read_options(keywords);
  const auto backend = make_backend({device, 1});
  const DeviceMatrix input(*backend, logits);
  positive(input.cols, "columns of logits");
  const auto length = static_cast<std::int32_t>(history.size());
  const Buffer prefix = to_device(*backend, &length, 1);
  const Buffer text = to_device(*backend, history.data(), history.size());
  const Ints depths(input.rows, -1);
  const Buffer depth = to_device(*backend, depths.data(), depths.size());
  const Sampler sampler(*backend, options.sampling, static_cast<int>(input.cols), text.as<std::int32_t>(), length,
                        options.stop_tokens, options.min_tokens);
  const Rows rows{.count = static_cast<int>(input.rows),
                  .sequence = {.length = prefix.as<std::int32_t>()},
                  .depth = depth.as<std::int32_t>()};
  backend->process(input.view(), rows, nullptr, sampler.chain());
  return to_host<OutputMatrix<float>, float>(*backend, input.buffer, {input.rows, input.cols});
}

// The rows are the nodes of a tree behind the tokens of `history`.
OutputMatrix<float> process_tree(const InputMatrix& logits, const Ints& history, const Ints& tokens,
                                 const Ints& parents, const std::string& device, const nb::kwargs& keywords) {
  const GenerateOptions options = read_options(keywords);
  const auto backend = make_backend({device, 1});
  const DeviceMatrix input(*backend, logits);
  positive(input.cols, "columns of logits");
  if (tokens.size() != input.rows || parents.size() != input.rows) {
    fail("process_tree: found ", tokens.size(), " tokens and ", parents.size(), " parents, expected ", input.rows);
  }
  const TreeLayout tree = derive_layout(parents);
  const auto length = static_cast<std::int32_t>(history.size());
  const Buffer prefix = to_device(*backend, &length, 1);
  const Buffer text = to_device(*backend, history.data(), history.size());
  const Buffer nodes = to_device(*backend, tokens.data(), tokens.size());
  const Buffer depth = to_device(*backend, tree.depth.data(), tree.depth.size());
  const Buffer path = to_device(*backend, tree.path.data(), tree.path.size());
  const Sampler sampler(*backend, options.sampling, static_cast<int>(input.cols), text.as<std::int32_t>(),
                        length + tree.max_depth + 1, options.stop_tokens, options.min_tokens);
  const Rows rows{.count = static_cast<int>(input.rows),
                  .sequence = {.length = prefix.as<std::int32_t>()},
                  .depth = depth.as<std::int32_t>(),
                  .path = path.as<std::int32_t>(),
                  .path_stride = tree.max_depth + 1};
  backend->process(input.view(), rows, nodes.as<std::int32_t>(), sampler.chain());
  return to_host<OutputMatrix<float>, float>(*backend, input.buffer, {input.rows, input.cols});
}

OutputVector<float> log_probs(const InputMatrix& logits, const Ints& tokens, const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DeviceMatrix input(*backend, logits);
  if (tokens.size() != input.rows) fail("tokens: found ", tokens.size(), ", expected ", input.rows);
  for (const std::int32_t token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= input.cols) fail("tokens: found ", token);
  }
  const Buffer chosen = to_device(*backend, tokens.data(), tokens.size());
  const Buffer out = backend->allocate(input.rows * sizeof(float));
  backend->log_probs(out.as<float>(), input.view(), chosen.as<std::int32_t>());
  return to_host<OutputVector<float>, float>(*backend, out, {input.rows});
}

OutputVector<std::int32_t> sample(const InputMatrix& logits, float temperature, std::uint64_t seed,
                                  const std::optional<Ints>& positions, int n_threads, const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const DeviceMatrix input(*backend, logits);
  positive(input.cols, "columns of logits");
  return choose_tokens(*backend, input.rows, positions, [&](std::int32_t* tokens, const Rows& rows) {
    backend->sample(tokens, input.view(), rows, checked_draw(temperature, seed));
  });
}

OutputVector<std::int32_t> head_sample(const std::filesystem::path& path, const std::string& tensor,
                                       const InputMatrix& hidden, float temperature, std::uint64_t seed,
                                       const std::optional<Ints>& positions, int n_threads, const std::string& device) {
  const Head head(path, tensor, hidden, n_threads, device);
  return choose_tokens(*head.backend, head.hidden->rows, positions, [&](std::int32_t* tokens, const Rows& rows) {
    head.backend->head_sample(tokens, head.hidden->view(), *head.weight, rows, checked_draw(temperature, seed),
                              nullptr);
  });
}

// Texts of a Markov chain, written by rejection sampling from drafts of another: row t of `target` and `drafter` holds
// the logits after token t. Counts how often each text of `length` tokens behind token 0 came out: (V^length).
OutputVector<std::int64_t> simulate_rejection(const InputMatrix& target, const InputMatrix& drafter, int length,
                                              int drafts, int width, int trials, bool block, const std::string& device,
                                              const nb::kwargs& keywords) {
  const auto vocab = static_cast<std::int32_t>(target.shape(0));
  if (target.shape(1) != target.shape(0) || drafter.shape(0) != target.shape(0) ||
      drafter.shape(1) != target.shape(0) || vocab < 1) {
    fail("simulate_rejection: expected two matrices (V, V)");
  }
  if (length < 1 || drafts < 1 || width < 1 || width > vocab) fail("simulate_rejection: found absurd sizes");
  const GenerateOptions options = read_options(keywords);
  const auto backend = make_backend({device, 1});
  const DeviceMatrix p(*backend, target), q(*backend, drafter);
  const auto levels = static_cast<std::size_t>(drafts), count = static_cast<std::size_t>(width);
  const Buffer best_ids = backend->allocate(4 * count * static_cast<std::size_t>(vocab));
  const Buffer best_scores = backend->allocate(4 * count * static_cast<std::size_t>(vocab));
  backend->top_k(best_ids.as<std::int32_t>(), best_scores.as<float>(), width, q.view(), nullptr);
  const Buffer proposal_ids = backend->allocate(4 * count * levels), probs = backend->allocate(4 * count * levels);
  const Proposals proposals{width, proposal_ids.as<std::int32_t>(), probs.as<float>()};
  const Buffer memory = backend->allocate(sizeof(std::int32_t) * (3 + 2 * (levels + 1)));
  auto* words = memory.as<std::int32_t>();
  std::int32_t *position = words, *drawn = words + 1;
  const VerdictView verdict{words + 2, words + 3, words + 3 + levels + 1};
  const Buffer score = backend->allocate(sizeof(float));
  const Buffer logits = backend->allocate(sizeof(float) * (levels + 1) * static_cast<std::size_t>(vocab));
  const Sampler sampler(*backend, options.sampling, vocab, nullptr, 1);
  DraftTree tree = DraftTree::with_room(*backend, drafts + 1, drafts);
  Ints parents(levels + 1), tokens(levels + 1);
  std::iota(parents.begin(), parents.end(), -1);
  std::size_t outcomes = 1;
  for (int i = 0; i < length; ++i) outcomes *= static_cast<std::size_t>(vocab);
  std::vector<std::int64_t> counts(outcomes, 0);
  for (int trial = 0; trial < trials; ++trial) {
    std::vector<std::int32_t> text{0};
    for (std::uint32_t step = 0; static_cast<int>(text.size()) <= length; ++step) {
      const RejectionDraw draw{options.sampling.seed + static_cast<std::uint64_t>(trial), step};
      const auto root = static_cast<std::int32_t>(text.size()) - 1;
      backend->upload(position, &root, sizeof root);
      tokens[0] = text.back();
      for (int level = 0; level < drafts; ++level) {
        const std::int64_t row = std::int64_t{tokens[static_cast<std::size_t>(level)]} * width;
        backend->draw_proposal(drawn, score.as<float>(), proposals, level, best_ids.as<std::int32_t>() + row,
                               best_scores.as<float>() + row, width, sampler.chain(), draw, position);
        backend->download(&tokens[static_cast<std::size_t>(level) + 1], drawn, sizeof *drawn);
      }
      tree.assign(*backend, tokens, parents);
      const Tensor rows = logits.matrix(drafts + 1, vocab);
      backend->gather_rows(rows, p.view(), tree.view().tokens);
      backend->verify_rejection(verdict, tree.view(), rows, tree.rows({.length = position}), sampler.chain(),
                                &proposals, draw, block);
      std::int32_t found = 0;
      backend->download(&found, verdict.count, sizeof found);
      Ints fresh(static_cast<std::size_t>(found));
      backend->download(fresh.data(), verdict.tokens, fresh.size() * sizeof(std::int32_t));
      text.insert(text.end(), fresh.begin(), fresh.end());
    }
    std::size_t index = 0;
    for (int i = 1; i <= length; ++i) {
      index = index * static_cast<std::size_t>(vocab) + static_cast<std::size_t>(text[static_cast<std::size_t>(i)]);
    }
    ++counts[index];
  }
  return to_array<OutputVector<std::int64_t>>(std::move(counts), {outcomes});
}

// The keys and values go into a cache, the last ones as a tree if there are parents; then q's rows attend.
OutputMatrix<float> attend(const InputMatrix& q, const InputMatrix& keys, const InputMatrix& values, int head_dim,
                           float scale, const std::optional<Ints>& parents, const std::string& cache_type,
                           int n_threads, float cap, int window, const std::optional<InputVector>& sinks,
                           const std::optional<Ints>& pages, const std::optional<Ints>& copies,
                           const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const std::size_t rows = q.shape(0), length = keys.shape(0);
  if (rows == 0 || rows > length || values.shape(0) != length || keys.shape(1) != values.shape(1)) {
    fail("attend: found ", rows, " queries, ", length, " keys and ", values.shape(0), " values");
  }
  if (head_dim < 1 || keys.shape(1) % static_cast<std::size_t>(head_dim) != 0 || q.shape(1) % keys.shape(1) != 0) {
    fail("head_dim: found ", head_dim, ", expected a divisor of the columns of keys and queries");
  }
  if (parents && parents->size() != rows) fail("parents: found ", parents->size(), ", expected ", rows);
  const DevicePages table(*backend, pages, length), copied(*backend, copies ? copies : pages, length);
  const KvShape shape{parse_kv_type(cache_type), static_cast<int>(keys.shape(1)) / head_dim, head_dim,
                      std::max(table.capacity, copied.capacity)};
  const Buffer key_memory = backend->allocate(backend->kv_bytes(shape));
  const Buffer value_memory = backend->allocate(backend->kv_bytes(shape));
  const KvLayer cache{key_memory.as<void>(), value_memory.as<void>(), shape};
  const DeviceMatrix k(*backend, keys), v(*backend, values), query(*backend, q);
  const auto prefix_length = static_cast<std::int32_t>(length - rows);
  const std::int32_t zero = 0;
  const Buffer start = to_device(*backend, &zero, 1), prefix = to_device(*backend, &prefix_length, 1);
  backend->rope_and_append(k.view().row_range(0, 0), k.view().row_range(0, prefix_length),
                           v.view().row_range(0, prefix_length), Rope{}, cache,
                           Rows{.count = prefix_length, .sequence = table.behind(start)});
  const TreeLayout tree = parents ? derive_layout(*parents) : TreeLayout{};
  const Buffer depth = to_device(*backend, tree.depth.data(), tree.depth.size());
  const Buffer path = to_device(*backend, tree.path.data(), tree.path.size());
  Rows nodes{.count = static_cast<int>(rows),
             .sequence = table.behind(prefix),
             .depth = parents ? depth.as<std::int32_t>() : nullptr,
             .path = parents ? path.as<std::int32_t>() : nullptr,
             .path_stride = tree.max_depth + 1};
  const auto count = static_cast<std::int64_t>(rows);
  backend->rope_and_append(query.view(), k.view().row_range(prefix_length, count),
                           v.view().row_range(prefix_length, count), Rope{}, cache, nodes);
  for (std::size_t i = 0; copies && i < copies->size(); ++i) {
    backend->copy_page({&cache, 1}, pages ? (*pages)[i] : static_cast<std::int32_t>(i), (*copies)[i]);
  }
  nodes.sequence = copied.behind(prefix);
  const Buffer out = backend->allocate(query.buffer.bytes());
  const Tensor result = out.matrix(count, static_cast<std::int64_t>(q.shape(1)));
  if (sinks && sinks->size() != q.shape(1) / static_cast<std::size_t>(head_dim)) {
    fail("sinks: found ", sinks->size(), " values, expected one for each query head");
  }
  const Buffer sink_memory = sinks ? to_device(*backend, sinks->data(), sinks->size()) : Buffer();
  backend->attend(result, query.view(), cache, nodes,
                  {.scale = scale, .cap = cap, .window = window, .sinks = sink_memory.as<float>()});
  return to_host<OutputMatrix<float>, float>(*backend, out, {rows, q.shape(1)});
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
      .def_static("dequantize", &dequantize, "path"_a, "tensor"_a, "device"_a = default_device(),
                  "The values of a tensor of a GGUF file: (rows, cols) float32.")
      .def_static(
          "device", [](const std::string& device) { return make_backend({device, 1})->description(); },
          "device"_a = default_device(), "The backend's description, with the instruction set.")
      .def_static("embed", &embed, "path"_a, "tensor"_a, "ids"_a, "packed"_a = true, "scale"_a = 1.0F,
                  "device"_a = default_device(),
                  "The given rows of a tensor, looked up in its packed form or in the file, times ``scale``: "
                  "(len(ids), cols) float32.")
      .def_static("matmul", &matmul, "path"_a, "tensor"_a, "x"_a, "rows"_a = nb::none(), "n_threads"_a = 0,
                  "device"_a = default_device(),
                  "x W^T for a tensor W of a GGUF file, or for the given rows of it: (m, k) float32 -> (m, n) float32.")
      .def_static("rms_norm", &rms_norm, "x"_a, "weight"_a, "epsilon"_a, "device"_a = default_device(),
                  "x / sqrt(mean(x^2) + epsilon) * weight, by row: (m, k), (k,) float32 -> (m, k) float32.")
      .def_static("top_k", &best_of_logits, "logits"_a, "k"_a, "column_ids"_a = nb::none(), "n_threads"_a = 0,
                  "device"_a = default_device(),
                  "The k best columns of each row, best first: ids (m, k) int32 and log-softmax (m, k) float32.\n\n"
                  "``column_ids`` (ascending) names the columns; without it they are their own ids.")
      .def_static("sample", &sample, "logits"_a, "temperature"_a = 0.0F, "seed"_a = 0, "positions"_a = nb::none(),
                  "n_threads"_a = 0, "device"_a = default_device(),
                  "The token that each row (m, V) chooses by argmax(logits / temperature + noise): (m,) int32.\n\n"
                  "``positions`` are those that the tokens would take; default: 1, 2, ... m.")
      .def_static(
          "process", &process, "logits"_a, "history"_a, "device"_a, "options"_a,
          nb::sig("def process(logits: NDArray[numpy.float32], history: Sequence[int], device: str, "
                  "**options: object) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]"),
          "The sampler chain: each row (m, V) as it is drawn from behind the tokens of ``history``; -inf where a "
          "token is out. ``stop_token_ids`` may not stand below position ``min_tokens``.")
      .def_static(
          "process_tree", &process_tree, "logits"_a, "history"_a, "tokens"_a, "parents"_a, "device"_a, "options"_a,
          nb::sig("def process_tree(logits: NDArray[numpy.float32], history: Sequence[int], tokens: Sequence[int], "
                  "parents: Sequence[int], device: str, **options: object) -> "
                  "Annotated[NDArray[numpy.float32], dict(shape=(None, None))]"),
          "``process`` of the nodes of a tree (the root's parent is -1) behind the tokens of ``history``.")
      .def_static("log_probs", &log_probs, "logits"_a, "tokens"_a, "device"_a = default_device(),
                  "The log-softmax of each row (m, V) at its token: (m,) float32.")
      .def_static(
          "simulate_rejection", &simulate_rejection, "target"_a, "drafter"_a, "length"_a, "drafts"_a, "width"_a,
          "trials"_a, "block"_a, "device"_a = default_device(), "options"_a,
          nb::sig("def simulate_rejection(target: NDArray[numpy.float32], drafter: NDArray[numpy.float32], "
                  "length: int, drafts: int, width: int, trials: int, block: bool, device: str = 'cpu', "
                  "**options: object) -> "
                  "Annotated[NDArray[numpy.int64], dict(shape=(None,))]"),
          "Counts of the texts of ``length`` tokens that a Markov chain (row t of ``target``: logits after token "
          "t) gives behind token 0 by rejection sampling from drafts of another: (V^length,).")
      .def_static("head_top_k", &head_top_k, "path"_a, "tensor"_a, "hidden"_a, "k"_a, "n_threads"_a = 0,
                  "device"_a = default_device(), "``top_k`` of the logits x W^T, which are never stored.")
      .def_static("head_sample", &head_sample, "path"_a, "tensor"_a, "hidden"_a, "temperature"_a = 0.0F, "seed"_a = 0,
                  "positions"_a = nb::none(), "n_threads"_a = 0, "device"_a = default_device(),
                  "``sample`` of the logits x W^T, which are never stored.")
      .def_static("attend", &attend, "q"_a, "keys"_a, "values"_a, "head_dim"_a, "scale"_a, "parents"_a = nb::none(),
                  "cache_type"_a = "f16", "n_threads"_a = 0, "cap"_a = 0.0F, "window"_a = 0, "sinks"_a = nb::none(),
                  "pages"_a = nb::none(), "copies"_a = nb::none(), "device"_a = default_device(),
                  "Attention of the last rows of a text, or of a tree behind it: q (m, heads * head_dim), keys and "
                  "values (n, kv_heads * head_dim) float32 -> as q. The last m keys are those of q's rows. ``pages``: "
                  "where the text's slots lie in the cache, 64 by 64; default: 0, 1, ... ``copies``: pages that "
                  "they are copied to, and read from.")
      .def_static("gumbel", &gumbel_noise, "seed"_a, "position"_a, "tokens"_a,
                  "The noise of tokens at an absolute position: (len(tokens),) float32.");
}

}  // namespace frspec
