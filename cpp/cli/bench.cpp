// `frspec bench`.
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/model_files.h"
#include "cli/option_arguments.h"
#include "cli/terminal.h"
#include "engine/bench.h"
#include "engine/bench_report.h"

namespace frspec {

int bench_command(std::span<char* const> arguments) {
  BenchOptions bench;
  Choices choices;
  ModelFiles files;
  std::string format = "md";
  Arguments options("frspec bench [-m TARGET] [-d DRAFTER] [OPTION...]",
                    "Times passes of a model beside what the machine can do at best.\n"
                    "pp: tokens of a prompt; tg: of a plain text; verify: nodes of a draft tree.\n"
                    "Without -m: the demo pair.");
  options.begin("Models");
  files.add_model(options, "GGUF file of the target model");
  files.add_drafter(options, "GGUF file of its drafter: times its tree's levels, too");
  files.add_hub(options, true);
  options.begin("Measurements");
  options.option("-p, --n-prompt", "N,...", bench.prompts, "pp: default 512");
  options.option("-n, --n-gen", "N,...", bench.texts, "tg: default 128");
  options.option("--n-verify", "N,...", bench.trees, "verify: default 1,2,4,8,16,32,64,128");
  options.option("--n-depth", "N", bench.context, "tokens of context that stand before; default: 0");
  options.add("--head", "POLICY,...", "heads of the drafter; default: full",
              [&](std::string_view heads) { bench.heads = split_commas(heads); });
  options.option("--synthetic-acceptance", "P", bench.synthetic_acceptance,
                 "time whole texts in which a drafted node's best child is accepted with probability P");
  options.option("-r, --repetitions", "N", bench.repetitions, "repetitions of each test; default: 5");
  options.begin("Machine and output");
  for (const char* name : {"n_threads", "device", "cache_type"}) add_option(options, choices, find_option(name));
  options.option("-o, --output", "md|csv|json", format, "default: md");
  files.add_more(options);
  options.begin("More of drafts", true);
  add_option(options, choices, find_option("tree"), "5,10,60");
  for (const char* name : {"tree_depth", "tree_branch", "tree_size", "ranks", "sketch"}) {
    add_option(options, choices, find_option(name));
  }
  if (!options.parse(arguments)) {
    write_output(options.help());
    return 0;
  }
  const BenchFormat as = parse_bench_format(format);
  choices.settle();
  bench.engine = std::move(choices.engine);
  ModelFiles::Paths paths = files.find();
  bench.engine.target = std::move(paths.target);
  bench.engine.drafter = std::move(paths.drafter);
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
