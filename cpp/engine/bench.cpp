#include "engine/bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/machine.h"
#include "draft/make_drafter.h"
#include "engine/lab.h"

namespace frspec {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> v) {
  if (v.empty()) return 0.0;
  std::sort(v.begin(), v.end());
  return (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
}

// What is timed has a shape, whatever would pay.
TreeShape bench_tree(const BenchOptions& o) { return o.engine.tree.value_or(TreeShape{}); }

class Bench {
 public:
  explicit Bench(const BenchOptions& options) : options_(options), engine_(engine_options(options)), lab_(engine_) {}

  BenchReport run() {
    BenchReport report;
    describe(report);
    lab_.measure_arithmetic(macs_per_second_);
    std::copy_n(macs_per_second_, kArithmetics, report.macs_per_second);
    fill_context();
    for (const int tokens : options_.prompts) {
      report.rows.push_back(prompt(tokens));
      if (is_hybrid()) report.rows.push_back(delta_rule_of_prompt(report.rows.back()));
    }
    for (const int tokens : options_.texts) report.rows.push_back(text(tokens));
    for (const int nodes : options_.trees) {
      report.rows.push_back(verify(nodes));
      if (is_hybrid()) report.rows.push_back(delta_rule_of_tree(report.rows.back()));
    }
    if (engine_.tuner() != nullptr) {
      for (const std::string& head : options_.heads) {
        engine_.set_head(head);
        report.rows.push_back(level(head));
        if (options_.synthetic_acceptance) report.rows.push_back(loop(head));
      }
    }
    report.bytes_per_second = median(readings_);
    return report;
  }

  // All repetitions, of which every test has one more, to warm up.
  int count_repetitions() const {
    const BenchOptions& o = options_;
    const std::size_t heads = o.engine.drafter ? o.heads.size() * (o.synthetic_acceptance ? 2 : 1) : 0;
    const std::size_t passes = (o.prompts.size() + o.trees.size()) * (is_hybrid() ? 2 : 1);
    return static_cast<int>(passes + o.texts.size() + heads) * (o.repetitions + 1);
  }

 private:
  static EngineOptions engine_options(const BenchOptions& o) {
    EngineOptions result = o.engine;
    result.tree = bench_tree(o);
    const auto largest = [](const std::vector<int>& v) {
      return v.empty() ? 1 : *std::max_element(v.begin(), v.end());
    };
    const int behind = std::max({largest(o.prompts), o.texts.empty() ? 128 : largest(o.texts), largest(o.trees)});
    result.head = o.engine.drafter ? head_for_files(o.heads, o.engine) : "full";
    result.context = o.context + behind + 2;
    // Every tree must fit a pass, as every prompt chunk does.
    result.batch = std::max(result.batch, largest(o.trees));
    return result;
  }

  bool is_hybrid() const { return engine_.config().recurrent_layers() > 0; }

  void announce(const std::string& test) {
    if (options_.on_progress) options_.on_progress(test, done_++, count_repetitions());
  }

  void describe(BenchReport& report) {
    report.machine = processor_name();
    report.device = engine_.device();
    const auto file = GgufFile::open(options_.engine.target);
    report.model = file->find("general.name") != nullptr ? std::string(file->get_string("general.name"))
                                                         : options_.engine.target.filename().string();
    report.context = options_.context;
    report.synthetic_acceptance = options_.synthetic_acceptance;
    std::map<std::string_view, std::size_t> bytes;
    const auto count = [&](const std::vector<const Weight*>& weights) {
      for (const Weight* w : weights) {
        bytes[dtype_name(w->type())] += w->bytes();
        report.model_bytes += static_cast<std::int64_t>(w->bytes());
        report.parameters += w->rows() * w->cols();
      }
    };
    count(lab_.target_matrices());
    count(lab_.expert_matrices());
    for (const auto& [type, size] : bytes) {
      const auto share =
          static_cast<int>(std::lround(100.0 * static_cast<double>(size) / static_cast<double>(report.model_bytes)));
      report.types += concat(report.types.empty() ? "" : ", ", type, " ", share, " %");
    }
  }

  // The prefix that all tests stand behind.
  void fill_context() {
    const auto tokens = some_tokens(std::max(options_.context, 1), engine_.config().vocab);
    (void)lab_.forward_tree(tokens, std::array<TokenId, 1>{0}, std::array<std::int32_t, 1>{-1});
    prefix_ = static_cast<std::int32_t>(tokens.size());
  }

  template <class Work>
  BenchRow timed(const std::string& test, int rows, int count, Work&& work) {
    announce(test);
    work();
    std::vector<double> times, readings;
    for (int i = 0; i < options_.repetitions; ++i) {
      announce(test);
      readings.push_back(lab_.measure_reading());
      times.push_back(1e3 * seconds_of(work) / count);
    }
    readings_.insert(readings_.end(), readings.begin(), readings.end());
    BenchRow row;
    row.test = test;
    row.rows = rows;
    row.bytes_per_second = median(readings);
    row.milliseconds = median(times);
    const double mean = std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
    for (const double t : times) row.deviation += (t - mean) * (t - mean) / static_cast<double>(times.size());
    row.deviation = std::sqrt(row.deviation);
    row.tokens_per_second = 1e3 * rows / row.milliseconds;
    return row;
  }

  // So much of a weight is read, and its rows are multiplied so many times each.
  void add_weight(BenchRow& row, const Weight& weight, double read, double times) {
    const double macs = static_cast<double>(weight.rows()) * static_cast<double>(weight.cols()) * times;
    row.bytes += read * static_cast<double>(weight.bytes());
    row.macs += macs;
    row.arithmetic_seconds += macs / macs_per_second_[static_cast<int>(lab_.arithmetic(weight.type()))];
  }

  // The cost of a pass of `rows` rows through `weights`; `head_rows` of them reach the last one, the head.
  void add_cost(BenchRow& row, const std::vector<const Weight*>& weights, int rows, int head_rows) {
    for (const Weight* w : weights) add_weight(row, *w, 1.0, w == weights.back() ? head_rows : rows);
  }

  // The same of a pass of the target. Experts that some row has chosen are read: of rows that choose one independently
  // of another, as many as are expected.
  void add_target(BenchRow& row, int rows, int head_rows) {
    add_cost(row, lab_.target_matrices(), rows, head_rows);
    const ModelConfig& config = engine_.config();
    if (config.experts > 0) {
      const double chosen = static_cast<double>(config.experts_used) / config.experts;
      const double read = 1.0 - std::pow(1.0 - chosen, rows);
      for (const Weight* w : lab_.expert_matrices()) add_weight(row, *w, read, chosen * rows);
    }
    add_attention(row, rows);
  }

  // What attention adds: keys and values of the context, once per pass, and their products with every row in f32.
  void add_attention(BenchRow& row, int rows) {
    const ModelConfig& config = engine_.config();
    row.bytes += lab_.cache_bytes(prefix_ + rows);
    const double length = prefix_ + (rows + 1) / 2.0;
    const double macs = 2.0 * length * rows * config.heads * config.head_dim * config.layers;
    row.macs += macs;
    row.arithmetic_seconds += macs / macs_per_second_[static_cast<int>(Arithmetic::F32)];
  }

  void set_floor(BenchRow& row) const {
    const double reading = row.bytes / row.bytes_per_second;
    row.memory_bound = reading >= row.arithmetic_seconds;
    row.floor_milliseconds = 1e3 * std::max(reading, row.arithmetic_seconds);
  }

  BenchRow prompt(int tokens) {
    const auto ids = some_tokens(tokens, engine_.config().vocab);
    BenchRow row = timed(concat("pp", tokens), tokens, 1, [&] { lab_.time_prompt(prefix_, ids); });
    add_target(row, tokens, 1);
    set_floor(row);
    return row;
  }

  BenchRow text(int tokens) {
    BenchRow row = timed(concat("tg", tokens), 1, tokens, [&] {
      for (int i = 0; i < tokens; ++i) lab_.time_tree(prefix_ + i, some_tokens(1, 2), std::array<std::int32_t, 1>{-1});
    });
    add_target(row, 1, 1);
    set_floor(row);
    return row;
  }

  static std::vector<std::int32_t> binary_tree(int nodes) {
    std::vector<std::int32_t> parents(static_cast<std::size_t>(nodes), -1);
    for (int i = 1; i < nodes; ++i) parents[static_cast<std::size_t>(i)] = (i - 1) / 2;
    return parents;
  }

  BenchRow verify(int nodes) {
    const auto tokens = some_tokens(nodes, engine_.config().vocab);
    const auto parents = binary_tree(nodes);
    BenchRow row = timed(concat("verify ", nodes), nodes, 1, [&] { lab_.time_tree(prefix_, tokens, parents); });
    add_target(row, nodes, nodes);
    set_floor(row);
    return row;
  }

  BenchRow delta_rule_of_prompt(const BenchRow& prompt) {
    const int batch = engine_options(options_).batch;
    return delta_rule(concat("delta rule ", prompt.test), prompt, (prompt.rows + batch - 1) / batch,
                      [&] { lab_.time_states(prefix_, prompt.rows); });
  }

  BenchRow delta_rule_of_tree(const BenchRow& tree) {
    const auto tokens = some_tokens(tree.rows, engine_.config().vocab);
    const auto parents = binary_tree(tree.rows);
    return delta_rule(concat("delta rule ", tree.rows), tree, 1, [&] { lab_.time_states(prefix_, tokens, parents); });
  }

  // What the recurrent layers of such passes do beside their products: the states are read once in each, and each row
  // has three multiply-adds and a multiplication with every number of them.
  template <class Work>
  BenchRow delta_rule(const std::string& test, const BenchRow& pass, int passes, Work&& work) {
    BenchRow row = timed(test, pass.rows, 1, work);
    const ModelConfig& config = engine_.config();
    row.bytes = static_cast<double>(config.state_bytes()) * passes;
    row.macs = 4.0 * static_cast<double>(config.delta.matrix_floats()) * config.recurrent_layers() * pass.rows;
    row.arithmetic_seconds = row.macs / macs_per_second_[static_cast<int>(Arithmetic::F32)];
    row.share = row.milliseconds / pass.milliseconds;
    set_floor(row);
    return row;
  }

  BenchRow level(const std::string& head) {
    const TreeShape shape = bench_tree(options_);
    const auto prompt = some_tokens(std::max(options_.context, 2), engine_.config().vocab);
    const auto sequence = engine_.begin(prompt, {.max_tokens = 1, .ignore_eos = true, .reuse = false});
    (void)engine_.step(*sequence);
    BenchRow row = timed(concat("draft level, ", head), shape.branch, shape.levels(), [&] { lab_.time_draft(); });
    // A tree has `levels` passes of the head, the first for a single row, and one pass less of everything else. (Keys
    // and values of the drafter's layer are not counted.)
    const auto weights = lab_.draft_matrices();
    const std::vector<const Weight*> head_rows{weights.back()};
    for (int i = 1; i < shape.levels(); ++i) add_cost(row, weights, shape.branch, shape.branch);
    add_cost(row, head_rows, 1, 1);
    for (double* cost : {&row.bytes, &row.macs, &row.arithmetic_seconds}) *cost /= shape.levels();
    set_floor(row);
    return row;
  }

  int loop_tokens() const { return options_.texts.empty() ? 128 : options_.texts.front(); }

  // A text of the engine's own loop, plain and drafted, each behind the same prompt.
  BenchRow loop(const std::string& head) {
    const std::string test = concat("loop, ", head);
    const int tokens = loop_tokens();
    const auto prompt = some_tokens(std::max(options_.context, 2), engine_.config().vocab);
    lab_.pretend(*options_.synthetic_acceptance);
    std::vector<double> speeds, plain_speeds;
    BenchRow row;
    for (int i = 0; i <= options_.repetitions; ++i) {
      announce(test);
      for (const bool draft : {false, true}) {
        GenerateOptions generate{.max_tokens = tokens, .ignore_eos = true, .reuse = false};
        generate.draft = draft ? DraftMode::Always : DraftMode::Never;
        generate.sampling.seed = static_cast<std::uint64_t>(i);
        const auto sequence = engine_.begin(prompt, generate);
        while (sequence->finish_reason() == FinishReason::None) (void)engine_.step(*sequence);
        if (i == 0) continue;  // the first one warms up
        const Stats& stats = sequence->stats();
        (draft ? speeds : plain_speeds).push_back(stats.tokens_per_second());
        if (draft) row.accepted_length += stats.accepted_length() / options_.repetitions;
      }
    }
    lab_.pretend(-1.0f);
    row.test = test;
    row.loop = true;
    row.rows = bench_tree(options_).size;
    row.tokens_per_second = median(speeds);
    if (row.tokens_per_second > 0.0) {  // a text of one token has no step
      row.milliseconds = 1e3 * row.accepted_length / row.tokens_per_second;
      row.speedup = row.tokens_per_second / median(plain_speeds);
    }
    return row;
  }

  const BenchOptions& options_;
  Engine engine_;
  Lab lab_;
  double macs_per_second_[kArithmetics] = {};
  std::vector<double> readings_;  // bytes per second
  std::int32_t prefix_ = 0;
  int done_ = 0;
};

void check(const BenchOptions& o) {
  const auto positive = [](const char* what, const std::vector<int>& values, int most) {
    for (const int v : values) {
      if (v < 1 || v > most) fail(what, ": found ", v, ", expected 1 to ", most);
    }
  };
  positive("prompt tokens", o.prompts, 1 << 20);
  positive("generated tokens", o.texts, 1 << 20);
  positive("tree nodes", o.trees, 4096);
  positive("repetitions", {o.repetitions}, 1000);
  if (o.context < 0) fail("context: found ", o.context, ", expected 0 or more");
  if (o.synthetic_acceptance && !(*o.synthetic_acceptance >= 0.0f && *o.synthetic_acceptance <= 1.0f)) {
    fail("synthetic acceptance: found ", *o.synthetic_acceptance, ", expected 0 to 1");
  }
  if (!o.engine.drafter && o.heads != std::vector<std::string>{"full"}) {
    fail("head: found ", o.heads.empty() ? "none" : o.heads.front(), ", but there is no drafter to use it");
  }
  if (o.synthetic_acceptance && !o.engine.drafter) fail("synthetic acceptance: there is no drafter to accept from");
}

}  // namespace

BenchReport run_bench(const BenchOptions& options) {
  check(options);
  return Bench(options).run();
}

}  // namespace frspec
