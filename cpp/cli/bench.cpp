// `frspec bench`.
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/model_files.h"
#include "cli/terminal.h"
#include "cli/tree_arguments.h"
#include "engine/bench.h"
#include "engine/bench_report.h"

namespace frspec {

int bench_command(std::span<char* const> arguments) {
  BenchOptions bench;
  ModelFiles files;
  std::optional<std::string> ranks, sketch;
  std::string format = "md", cache = "f16";
  Arguments options("frspec bench [-m TARGET] [-d DRAFTER] [OPTION...]",
                    "Times passes of a model beside what the machine can do at best.\n"
                    "pp: tokens of a prompt; tg: of a plain text; verify: nodes of a draft tree.\n"
                    "Without -m: the demo pair.");
  TreeChoice tree;
  options.begin("Models");
  files.add_model(options, "GGUF file of the target model");
  files.add_drafter(options, "GGUF file of its drafter: times its tree's levels, too");
  files.add_hub(options, true);
  options.begin("Measurements");
  options.numbers("-p, --n-prompt", "N,...", bench.prompts, "pp: default 512");
  options.numbers("-n, --n-gen", "N,...", bench.texts, "tg: default 128");
  options.numbers("--n-verify", "N,...", bench.trees, "verify: default 1,2,4,8,16,32,64,128");
  options.number("--n-depth", "N", bench.context, "tokens of context that stand before; default: 0");
  options.texts("--head", "POLICY,...", bench.heads, "heads of the drafter; default: full");
  options.number("--synthetic-acceptance", "P", bench.synthetic_acceptance,
                 "time whole texts in which a drafted node's best child is accepted with probability P");
  options.number("-r, --repetitions", "N", bench.repetitions, "repetitions of each test; default: 5");
  options.begin("Machine and output");
  options.number("-t, --threads", "N", bench.engine.backend.threads, "CPU threads; default: -1, one per core");
  options.text("--device", "DEVICE", bench.engine.backend.device,
               "cpu, cuda or cuda:N; default: FRSPEC_DEVICE, or cpu");
  options.text("--cache-type", "f16|q8_0|f32", cache, "type of the K/V cache; default: f16");
  options.text("-o, --output", "md|csv|json", format, "default: md");
  files.add_more(options);
  options.begin("More of drafts", true);
  add_tree(options, tree, "5,10,60");
  options.text("--ranks", "FILE", ranks, "token ranks; default: those in the drafter's file");
  options.text("--sketch", "FILE", sketch, "sketch of the head; default: the one in the drafter's file");
  if (!options.parse(arguments)) {
    write_output(options.help());
    return 0;
  }
  const BenchFormat as = parse_bench_format(format);
  bench.engine.kv_type = parse_kv_type(cache);
  bench.engine.tree = tree.shape();
  ModelFiles::Paths paths = files.find();
  bench.engine.target = std::move(paths.target);
  bench.engine.drafter = std::move(paths.drafter);
  bench.engine.ranks = ranks;
  bench.engine.sketch = sketch;
  catch_interrupt();
  ProgressLine progress;
  const auto check = [] {
    if (interrupted()) throw Interrupted();
  };
  bench.engine.on_load = [&](std::size_t done, std::size_t total) {
    check();
    progress.show(concat("loading: ", 100 * done / total, " %"));
  };
  bench.engine.on_warning = [&](const std::string& warning) {
    progress.clear();
    write_warning(warning);
  };
  bench.on_progress = [&](const std::string& test, int done, int total) {
    check();
    progress.show(concat(100 * done / total, " %: ", test));
  };
  const BenchReport report = run_bench(bench);
  progress.clear();
  write_output(format_bench(report, as));
  return 0;
}

}  // namespace frspec
