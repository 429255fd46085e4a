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
#include "option_table.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

std::string bench(const std::filesystem::path& target, const std::optional<std::filesystem::path>& drafter,
                  std::vector<std::string> heads, std::vector<int> n_prompt, std::vector<int> n_gen,
                  std::vector<int> n_verify, int n_depth, int repetitions, std::optional<float> synthetic_acceptance,
                  const nb::object& progress, const nb::kwargs& keywords) {
  BenchOptions options;
  options.engine = read_engine_options(keywords);
  const WithoutGil released;
  options.engine.target = target;
  options.engine.drafter = drafter;
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
  m.def("bench", &bench, "target"_a, "drafter"_a.none(), nb::kw_only(), "heads"_a, "n_prompt"_a, "n_gen"_a,
        "n_verify"_a, "n_depth"_a, "repetitions"_a, "synthetic_acceptance"_a.none(), "progress"_a.none(), "options"_a,
        nb::sig("def bench(target: str | os.PathLike[str], drafter: str | os.PathLike[str] | None, *, "
                "heads: Sequence[str], n_prompt: Sequence[int], n_gen: Sequence[int], n_verify: Sequence[int], "
                "n_depth: int, repetitions: int, synthetic_acceptance: float | None, "
                "progress: collections.abc.Callable[[str, int, int], object] | None, **options: Any) -> str"),
        "Times passes of a model; the report as JSON. ``progress`` is called with what is being done, and how much of "
        "it is done and to do.");
}

}  // namespace frspec
