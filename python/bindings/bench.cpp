// The bench in Python: the report as the JSON text that `frspec bench -o json` writes.
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "callbacks.h"
#include "engine/bench.h"
#include "engine/bench_report.h"
#include "gil.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

std::string bench(const std::filesystem::path& target, const std::optional<std::filesystem::path>& drafter,
                  const std::optional<std::filesystem::path>& ranks, const std::optional<std::filesystem::path>& sketch,
                  std::vector<std::string> heads, std::vector<int> n_prompt, std::vector<int> n_gen,
                  std::vector<int> n_verify, int n_depth, int repetitions, std::optional<float> synthetic_acceptance,
                  std::optional<int> tree_depth, std::optional<int> tree_branch, std::optional<int> tree_size,
                  int n_threads, const std::string& cache_type, const std::string& device, const nb::object& progress) {
  const WithoutGil released;
  BenchOptions options;
  options.engine.target = target;
  options.engine.drafter = drafter;
  options.engine.ranks = ranks;
  options.engine.sketch = sketch;
  options.engine.tree = TreeChoice{"auto", tree_depth, tree_branch, tree_size}.shape();
  options.engine.backend = {device, n_threads};
  options.engine.kv_type = parse_kv_type(cache_type);
  options.engine.on_load = [&](std::size_t done, std::size_t total) { call_python(progress, "loading", done, total); };
  options.engine.on_warning = [](const std::string& warning) { warn_in_python(warning, 2); };
  options.heads = std::move(heads);
  options.prompts = std::move(n_prompt);
  options.texts = std::move(n_gen);
  options.trees = std::move(n_verify);
  options.context = n_depth;
  options.repetitions = repetitions;
  options.synthetic_acceptance = synthetic_acceptance;
  options.on_progress = [&](const std::string& test, int done, int total) { call_python(progress, test, done, total); };
  return format_bench(run_bench(options), BenchFormat::Json);
}

}  // namespace

void init_bench(nb::module_& m) {
  m.def("bench", &bench, "target"_a, "drafter"_a.none(), "ranks"_a.none(), "sketch"_a.none(), nb::kw_only(), "heads"_a,
        "n_prompt"_a, "n_gen"_a, "n_verify"_a, "n_depth"_a, "repetitions"_a, "synthetic_acceptance"_a.none(),
        "tree_depth"_a, "tree_branch"_a, "tree_size"_a, "n_threads"_a, "cache_type"_a, "device"_a, "progress"_a.none(),
        nb::sig("def bench(target: str | os.PathLike[str], drafter: str | os.PathLike[str] | None, "
                "ranks: str | os.PathLike[str] | None, sketch: str | os.PathLike[str] | None, *, heads: Sequence[str], "
                "n_prompt: Sequence[int], "
                "n_gen: Sequence[int], n_verify: Sequence[int], n_depth: int, repetitions: int, "
                "synthetic_acceptance: float | None, tree_depth: int, tree_branch: int, tree_size: int, "
                "n_threads: int, cache_type: str, device: str, "
                "progress: collections.abc.Callable[[str, int, int], object] | None) -> str"),
        "Times passes of a model; the report as JSON. ``progress`` is called with what is being done, and how much of "
        "it is done and to do.");
}

}  // namespace frspec
