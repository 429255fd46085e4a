// `_core.tree_ops`: growing and verifying draft trees on arrays of the host, for tests of the kernels.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

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

struct TreeOps {};
using InputIds = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Walk = std::tuple<Ints, Ints>;  // nodes, and the token after each

template <class T>
std::vector<T> read(Backend& backend, const T* from, std::size_t count) {
  std::vector<T> values(count);
  backend.download(values.data(), from, count * sizeof(T));
  return values;
}

// A verdict of a tree in the backend's memory, and back.
struct DeviceVerdict {
  DeviceVerdict(Backend& backend, int nodes)
      : memory(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(1 + 2 * nodes))), room(nodes) {
    auto* words = memory.as<std::int32_t>();
    view = {words, words + 1, words + 1 + nodes};
  }
  Walk found(Backend& backend) const {
    const auto count = static_cast<std::size_t>(read(backend, view.count, 1)[0]);
    if (count < 1 || count > static_cast<std::size_t>(room)) throw Error(concat("verdict: found ", count, " nodes"));
    return {read(backend, view.nodes, count), read(backend, view.tokens, count)};
  }

  Buffer memory;
  int room;
  VerdictView view;
};

void same_size(std::size_t found, std::size_t expected, const char* name) {
  if (found != expected) fail(name, ": found ", found, " values, expected ", expected);
}

nb::dict grow(int branch, int levels, int size, std::int32_t root, const InputIds& ids, const InputMatrix& log_probs,
              const std::optional<Ints>& map, const std::string& device) {
  const auto backend = make_backend({device, 1});
  DraftTree tree(*backend, {.depth = levels - 1, .branch = branch, .size = size});
  const auto k = static_cast<std::size_t>(branch), steps = static_cast<std::size_t>(levels);
  same_size(ids.size(), k * (1 + (steps - 1) * k), "ids");
  same_size(log_probs.size(), ids.size(), "log_probs");
  const Buffer tokens = to_device(*backend, ids.data(), ids.size());
  const Buffer scores = to_device(*backend, log_probs.data(), log_probs.size());
  const CandidatePool& pool = tree.pool();
  const std::size_t candidates = ids.size();
  nb::list frontiers;
  for (int level = 0; level < levels; ++level) {
    backend->tree_expand(pool, level, tokens.as<std::int32_t>() + pool.base(level),
                         scores.as<float>() + pool.base(level));
    if (level + 1 == levels) break;
    Ints path;  // what is in use of it
    const Ints whole = read(*backend, pool.frontier_path, k * steps);
    for (std::size_t r = 0; r < k; ++r) {
      const auto row = whole.begin() + static_cast<std::ptrdiff_t>(r * steps);
      path.insert(path.end(), row, row + level + 1);
    }
    frontiers.append(nb::make_tuple(read(*backend, pool.frontier, k), read(*backend, pool.frontier_tokens, k),
                                    read(*backend, pool.frontier_rows, k), read(*backend, pool.frontier_depth, k),
                                    path));
  }
  if (map) {
    const Buffer to = to_device(*backend, map->data(), map->size());
    backend->map_ids(pool.tokens, pool.capacity(), to.as<std::int32_t>());
  }
  const Ints text = {-1, root};
  const std::int32_t one = 1;
  const Buffer history = to_device(*backend, text.data(), text.size()), length = to_device(*backend, &one, 1);
  backend->tree_select(tree.view(), pool, {.length = length.as<std::int32_t>(), .history = history.as<std::int32_t>()});
  const TreeView& view = tree.view();
  const auto nodes = static_cast<std::size_t>(view.size);
  const auto depth = read(*backend, view.depth, nodes);
  const std::size_t stride = static_cast<std::size_t>(view.max_depth) + 1;
  const Ints whole = read(*backend, view.path, nodes * stride);
  Ints path;
  for (std::size_t node = 0; node < nodes; ++node) {
    if (depth[node] < 0 || depth[node] > view.max_depth) throw Error(concat("tree: found depth ", depth[node]));
    const auto row = whole.begin() + static_cast<std::ptrdiff_t>(node * stride);
    path.insert(path.end(), row, row + depth[node] + 1);
  }
  nb::dict found;
  found["pool_tokens"] = read(*backend, pool.tokens, candidates);
  found["pool_parents"] = read(*backend, pool.parents, candidates);
  found["pool_scores"] = read(*backend, pool.scores, candidates);
  found["frontiers"] = frontiers;
  found["tokens"] = read(*backend, view.tokens, nodes);
  found["parents"] = read(*backend, view.parents, nodes);
  found["depth"] = depth;
  found["path"] = path;
  return found;
}

Walk verify(const Ints& tokens, const Ints& parents, const Ints& sampled, const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DraftTree tree(*backend, tokens, parents);
  same_size(sampled.size(), tokens.size(), "sampled");
  const Buffer after = to_device(*backend, sampled.data(), sampled.size());
  const DeviceVerdict verdict(*backend, tree.view().max_depth + 1);
  backend->verify(verdict.view, tree.view(), after.as<std::int32_t>());
  return verdict.found(*backend);
}

Walk verify_logits(const InputMatrix& logits, const Ints& tokens, const Ints& parents, std::int32_t prefix,
                   const std::string& device, const nb::kwargs& keywords) {
  const GenerateOptions options = read_options(keywords);
  const auto backend = make_backend({device, 1});
  const DraftTree tree(*backend, tokens, parents);
  same_size(logits.shape(0), tokens.size(), "rows of logits");
  const DeviceMatrix rows(*backend, logits);
  const Buffer length = to_device(*backend, &prefix, 1);
  const Ints zeros(static_cast<std::size_t>(prefix), 0);
  const Buffer history = to_device(*backend, zeros.data(), zeros.size());
  const Sampler sampler(*backend, options.sampling, static_cast<int>(rows.cols), history.as<std::int32_t>(), prefix);
  const DeviceVerdict verdict(*backend, tree.view().max_depth + 1);
  backend->verify_logits(verdict.view, tree.view(), rows.view(), tree.rows({.length = length.as<std::int32_t>()}),
                         sampler.chain(), sampler.draw_after_chain());
  return verdict.found(*backend);
}

Ints pretend_acceptance(const Ints& tokens, const Ints& parents, const Ints& sampled, std::int32_t prefix,
                        float probability, std::uint64_t seed, const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DraftTree tree(*backend, tokens, parents);
  same_size(sampled.size(), tokens.size(), "sampled");
  const Buffer after = to_device(*backend, sampled.data(), sampled.size());
  const Buffer length = to_device(*backend, &prefix, 1);
  backend->instruments().pretend_acceptance(after.as<std::int32_t>(), tree.view(),
                                            tree.rows({.length = length.as<std::int32_t>()}), probability, seed);
  return read(*backend, after.as<std::int32_t>(), sampled.size());
}

// A history of `room` places that hold -1, of which `length` are taken, and what is accepted behind them; the length
// then; and the path, of `spare` entries more than the tree can have: nodes, tokens, and the last entry.
std::tuple<Ints, std::int32_t, Ints, Ints, std::int32_t> commit_path(const Ints& tokens, const Ints& parents,
                                                                     const Ints& sampled, std::int32_t length, int room,
                                                                     int spare, const std::string& device) {
  const auto backend = make_backend({device, 1});
  const DraftTree tree(*backend, tokens, parents);
  same_size(sampled.size(), tokens.size(), "sampled");
  const int rows = tree.view().max_depth + 1 + spare;
  if (length < 0 || spare < 0 || room < length + rows + 1) fail("room: found ", room, ", expected more");
  const Buffer after = to_device(*backend, sampled.data(), sampled.size());
  const DeviceVerdict verdict(*backend, tree.view().max_depth + 1);
  const Ints empty(static_cast<std::size_t>(room), -1);
  const Buffer history = to_device(*backend, empty.data(), empty.size()), count = to_device(*backend, &length, 1);
  const auto entries = static_cast<std::size_t>(rows);
  const Buffer nodes = to_device(*backend, empty.data(), entries), found = to_device(*backend, empty.data(), entries);
  const Buffer last = to_device(*backend, empty.data(), 1);
  backend->verify(verdict.view, tree.view(), after.as<std::int32_t>());
  backend->commit({}, {.length = count.as<std::int32_t>(), .history = history.as<std::int32_t>()}, verdict.view,
                  {rows, nodes.as<std::int32_t>(), found.as<std::int32_t>(), last.as<std::int32_t>()});
  return {read(*backend, history.as<std::int32_t>(), empty.size()), read(*backend, count.as<std::int32_t>(), 1)[0],
          read(*backend, nodes.as<std::int32_t>(), entries), read(*backend, found.as<std::int32_t>(), entries),
          read(*backend, last.as<std::int32_t>(), 1)[0]};
}

// The draft of one level out of three: (token, log-probability, ids, probabilities).
std::tuple<std::int32_t, float, Ints, std::vector<float>> draw_proposal(const Ints& candidates,
                                                                        const std::vector<float>& log_probs, int width,
                                                                        std::int32_t position, std::uint32_t step,
                                                                        const std::string& device,
                                                                        const nb::kwargs& keywords) {
  const GenerateOptions options = read_options(keywords);
  const auto backend = make_backend({device, 1});
  same_size(log_probs.size(), candidates.size(), "log_probs");
  positive(candidates.size(), "candidates");
  if (width < 1) fail("width: found ", width, ", expected at least 1");
  constexpr int kLevel = 2;
  const std::size_t count = (kLevel + 1) * static_cast<std::size_t>(width);
  const Buffer proposed = backend->allocate(count * sizeof(std::int32_t)),
               probs = backend->allocate(count * sizeof(float));
  const Buffer ids = to_device(*backend, candidates.data(), candidates.size());
  const Buffer scores = to_device(*backend, log_probs.data(), log_probs.size());
  const Buffer at = to_device(*backend, &position, 1);
  const Buffer token = backend->allocate(sizeof(std::int32_t)), log_prob = backend->allocate(sizeof(float));
  const Sampler sampler(*backend, options.sampling, 1 << 20, nullptr, 1);
  backend->draw_proposal(token.as<std::int32_t>(), log_prob.as<float>(),
                         {width, proposed.as<std::int32_t>(), probs.as<float>()}, kLevel, ids.as<std::int32_t>(),
                         scores.as<float>(), static_cast<int>(candidates.size()), sampler.chain(),
                         {options.sampling.seed, step}, at.as<std::int32_t>());
  const auto row = static_cast<std::size_t>(width);
  return {read(*backend, token.as<std::int32_t>(), 1)[0], read(*backend, log_prob.as<float>(), 1)[0],
          read(*backend, proposed.as<std::int32_t>() + kLevel * row, row),
          read(*backend, probs.as<float>() + kLevel * row, row)};
}

Walk verify_rejection(const InputMatrix& logits, const Ints& tokens, std::int32_t prefix,
                      const std::optional<InputIds>& ids, const std::optional<InputMatrix>& probs, std::uint32_t step,
                      bool block, const std::string& device, const nb::kwargs& keywords) {
  const GenerateOptions options = read_options(keywords);
  const auto backend = make_backend({device, 1});
  same_size(logits.shape(0), tokens.size(), "rows of logits");
  Ints parents(tokens.size());
  std::iota(parents.begin(), parents.end(), -1);
  const DraftTree tree(*backend, tokens, parents);
  const DeviceMatrix rows(*backend, logits);
  const Buffer length = to_device(*backend, &prefix, 1);
  const Ints zeros(static_cast<std::size_t>(prefix), 0);
  const Buffer history = to_device(*backend, zeros.data(), zeros.size());
  Buffer proposed, shares;
  Proposals proposals;
  if (ids && probs) {
    same_size(ids->shape(0) + 1, tokens.size(), "rows of ids");
    same_size(probs->size(), ids->size(), "probs");
    proposed = to_device(*backend, ids->data(), ids->size());
    shares = to_device(*backend, probs->data(), probs->size());
    proposals = {static_cast<int>(ids->shape(1)), proposed.as<std::int32_t>(), shares.as<float>()};
  }
  const Sampler sampler(*backend, options.sampling, static_cast<int>(rows.cols), history.as<std::int32_t>(), prefix);
  const DeviceVerdict verdict(*backend, static_cast<int>(tokens.size()));
  backend->verify_rejection(verdict.view, tree.view(), rows.view(), tree.rows({.length = length.as<std::int32_t>()}),
                            sampler.chain(), ids ? &proposals : nullptr, {options.sampling.seed, step}, block);
  return verdict.found(*backend);
}

}  // namespace

void init_tree_ops(nb::module_& m) {
  nb::class_<TreeOps>(m, "tree_ops", "Growing and verifying draft trees, for tests of the kernels.")
      .def_static("grow", &grow, "branch"_a, "levels"_a, "size"_a, "root"_a, "ids"_a, "log_probs"_a,
                  "map"_a = nb::none(), "device"_a = default_device(),
                  "A tree of the best candidates of all levels: the children of the root (1, branch), then of the "
                  "frontier's nodes (branch, branch) of every other level, one below the other.\n\n"
                  "Gives the pool, the frontier after every level but the last, and the tree, each as lists; paths "
                  "without what stands behind their ends.")
      .def_static("verify", &verify, "tokens"_a, "parents"_a, "sampled"_a, "device"_a = default_device(),
                  "The accepted nodes and the target's token after each.")
      .def_static("verify_logits", &verify_logits, "logits"_a, "tokens"_a, "parents"_a, "prefix"_a, "device"_a,
                  "options"_a,
                  nb::sig("def verify_logits(logits: NDArray[numpy.float32], tokens: Sequence[int], "
                          "parents: Sequence[int], prefix: int, device: str, **options: object) -> "
                          "tuple[list[int], list[int]]"),
                  "The same from logits (nodes, V).")
      .def_static("pretend_acceptance", &pretend_acceptance, "tokens"_a, "parents"_a, "sampled"_a, "prefix"_a,
                  "probability"_a, "seed"_a, "device"_a = default_device(),
                  "The target's tokens as they would be if it agreed with the given probability.")
      .def_static("commit", &commit_path, "tokens"_a, "parents"_a, "sampled"_a, "length"_a, "room"_a, "spare"_a = 0,
                  "device"_a = default_device(),
                  "A history of ``room`` places that hold -1 once the accepted tokens have joined its first ``length`` "
                  "ones; the length; and the path with ``spare`` entries more: nodes, tokens, the last entry.")
      .def_static("draw_proposal", &draw_proposal, "candidates"_a, "log_probs"_a, "width"_a, "position"_a, "step"_a,
                  "device"_a, "options"_a,
                  nb::sig("def draw_proposal(candidates: Sequence[int], log_probs: Sequence[float], width: int, "
                          "position: int, step: int, device: str, **options: object) -> "
                          "tuple[int, float, list[int], list[float]]"),
                  "A draft of level 2: its token and log-probability, and what it was drawn from.")
      .def_static("verify_rejection", &verify_rejection, "logits"_a, "tokens"_a, "prefix"_a, "ids"_a.none(),
                  "probs"_a.none(), "step"_a, "block"_a, "device"_a, "options"_a,
                  nb::sig("def verify_rejection(logits: NDArray[numpy.float32], tokens: Sequence[int], prefix: int, "
                          "ids: NDArray[numpy.int32] | None, probs: NDArray[numpy.float32] | None, step: int, "
                          "block: bool, device: str, **options: object) -> tuple[list[int], list[int]]"),
                  "The accepted nodes of a chain and the token after each, by rejection sampling.");
}

}  // namespace frspec
