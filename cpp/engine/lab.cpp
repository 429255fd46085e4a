#include "engine/lab.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {
namespace {

constexpr int kMaxBest = 64;  // tokens after each that forward() tells

// Reads tokens behind the first `prefix` ones of the cache. Calls use(first, rows) behind each pass over a part of
// them.
template <class Use>
void read_all(TargetRunner& runner, std::int32_t prefix, std::span<const TokenId> tokens, Use&& use) {
  const auto batch = static_cast<std::size_t>(runner.batch());
  runner.set_tokens(tokens, prefix);
  for (std::size_t first = 0; first < tokens.size(); first += batch) {
    const int rows = static_cast<int>(std::min(batch, tokens.size() - first));
    runner.read(static_cast<std::size_t>(prefix) + first, rows);
    use(first, rows);
    runner.commit_rows(rows);
  }
}

// The logits of the first `rows` rows of the last pass, to `to` (rows, V).
void download_logits(const EngineParts& parts, int rows, float* to) {
  CausalModel& target = parts.runner->target();
  for (int row = 0; row < rows; row += kLogitRows) {
    const Tensor logits = target.logits(target.hidden(rows).row_range(row, std::min(kLogitRows, rows - row)));
    const auto count = static_cast<std::size_t>(logits.rows * logits.cols);
    parts.backend->download(to, logits.data, count * sizeof(float));
    to += count;
  }
}

// The `best` most probable tokens after each of these rows from `from` on, and their log-probabilities, to
// (rows - from, best) each.
void download_best(const EngineParts& parts, int from, int rows, int best, TokenId* tokens, float* log_probs) {
  CausalModel& target = parts.runner->target();
  const auto width = static_cast<std::size_t>(best);
  const Buffer ids = parts.backend->allocate(kLogitRows * width * sizeof(TokenId));
  const Buffer scores = parts.backend->allocate(kLogitRows * width * sizeof(float));
  for (int row = from; row < rows; row += kLogitRows) {
    const Tensor some = target.hidden(rows).row_range(row, std::min(kLogitRows, rows - row));
    const BestTokens found{.ids = ids.as<std::int32_t>(), .scores = scores.as<float>(), .k = best};
    parts.backend->head_top_k(found, some, {.weight = &target.head()}, nullptr);
    const std::size_t count = static_cast<std::size_t>(some.rows) * width;
    parts.backend->download(tokens, found.ids, count * sizeof(TokenId));
    parts.backend->download(log_probs, found.scores, count * sizeof(float));
    tokens += count;
    log_probs += count;
  }
}

}  // namespace

Lab::Forward Lab::forward(std::span<const TokenId> tokens, std::optional<int> wanted, std::size_t from) {
  if (tokens.empty() || tokens.size() > static_cast<std::size_t>(engine_.context())) {
    fail("forward: found ", tokens.size(), " tokens, expected 1 to ", engine_.context(), ", the context");
  }
  const int best = wanted.value_or(0);
  const int most = std::min(kMaxBest, engine_.config().vocab);
  if (best < 0 || best > most) fail("forward: found best ", best, ", expected 0 to ", most);
  if (from > tokens.size()) fail("forward: found first ", from, ", expected 0 to ", tokens.size(), ", the tokens");
  check_tokens(tokens, *engine_.tokenizer());
  const EngineAccess access = engine_.take_over();
  EngineParts& parts = access.parts;
  CausalModel& target = parts.runner->target();
  const auto vocab = static_cast<std::size_t>(target.config().vocab);
  const auto dim = static_cast<std::size_t>(target.config().dim);
  const std::size_t taps = parts.options.taps.size();
  const auto width = static_cast<std::size_t>(best);
  Forward result;
  result.taps.assign(taps, std::vector<float>(tokens.size() * dim));
  if (!wanted) result.logits.resize(tokens.size() * vocab);
  result.best.resize((tokens.size() - from) * width);
  result.log_probs.resize(result.best.size());
  read_all(*parts.runner, 0, tokens, [&](std::size_t first, int rows) {
    if (best > 0) {
      const std::size_t skipped = std::clamp(from, first, first + static_cast<std::size_t>(rows)) - first;
      const std::size_t to = (std::max(from, first) - from) * width;
      download_best(parts, static_cast<int>(skipped), rows, best, result.best.data() + to,
                    result.log_probs.data() + to);
    } else if (!wanted) {
      download_logits(parts, rows, result.logits.data() + first * vocab);
    }
    for (std::size_t t = 0; t < taps; ++t) {
      parts.backend->download(result.taps[t].data() + first * dim, target.tap(static_cast<int>(t), rows).data,
                              static_cast<std::size_t>(rows) * dim * sizeof(float));
    }
  });
  return result;
}

std::vector<float> Lab::forward_tree(std::span<const TokenId> prefix, std::span<const TokenId> tokens,
                                     std::span<const std::int32_t> parents) {
  check_tokens(prefix, *engine_.tokenizer());
  check_tokens(tokens, *engine_.tokenizer());
  const EngineAccess access = engine_.take_over();
  EngineParts& parts = access.parts;
  const auto context = static_cast<std::size_t>(engine_.context());
  const auto batch = static_cast<std::size_t>(parts.runner->batch());
  if (prefix.size() + tokens.size() > context || tokens.size() > batch) {
    fail("forward_tree: found ", prefix.size(), " + ", tokens.size(), " tokens, expected at most ", context,
         ", the context, and at most ", batch, " in the tree, the batch");
  }
  read_all(*parts.runner, 0, prefix, [](std::size_t, int) {});
  const DraftTree tree(*parts.backend, tokens, parents);
  parts.runner->forward(tree);
  std::vector<float> result(tokens.size() * static_cast<std::size_t>(engine_.config().vocab));
  download_logits(parts, tree.size(), result.data());
  return result;
}

std::pair<std::vector<float>, std::size_t> Lab::take_states() {
  const EngineAccess access = engine_.access();
  EngineParts& parts = access.parts;
  if (parts.options.states == 0) fail("take_states: found an engine that notes none, expected states > 0");
  if (!parts.drafting) return {};
  return parts.drafting->take_states();
}

void Lab::time_prompt(std::int32_t prefix, std::span<const TokenId> tokens) {
  const EngineAccess access = engine_.take_over();
  EngineParts& parts = access.parts;
  const std::size_t length = static_cast<std::size_t>(prefix) + tokens.size();
  read_all(*parts.runner, prefix, tokens, [&](std::size_t first, int rows) {
    const bool is_last = first + static_cast<std::size_t>(rows) == tokens.size();
    if (is_last) (void)parts.runner->sample_first(rows, length, Sampler{}, {}, {}, {});
  });
  parts.backend->wait();
}

void Lab::time_tree(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents) {
  engine_.take_over().parts.runner->try_tree(prefix, tokens, parents);
}

void Lab::time_states(std::int32_t prefix, int tokens) { engine_.take_over().parts.runner->try_states(prefix, tokens); }

void Lab::time_states(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents) {
  engine_.take_over().parts.runner->try_states(prefix, tokens, parents);
}

void Lab::time_draft() {
  const EngineAccess access = engine_.take_over();
  EngineParts& parts = access.parts;
  DraftState state{.wanted = true};
  if (parts.drafting->propose(state, 0, nullptr) == nullptr) throw Error(state.error);
  parts.backend->wait();
}

void Lab::pretend(float probability) { engine_.access().parts.runner->verifier().pretend(probability); }

std::vector<const Weight*> Lab::target_matrices() { return engine_.access().parts.runner->target().matrices(); }

std::vector<const Weight*> Lab::expert_matrices() { return engine_.access().parts.runner->target().expert_matrices(); }

std::vector<const Weight*> Lab::draft_matrices() { return engine_.access().parts.drafting->drafter().matrices(); }

double Lab::cache_bytes(int tokens) {
  const EngineAccess access = engine_.access();
  EngineParts& parts = access.parts;
  const ModelConfig& config = engine_.config();
  const KvShape shape{parts.options.kv_type, config.kv_heads, config.head_dim, pages_for(tokens) * kPageSlots};
  return 2.0 * static_cast<double>(parts.backend->kv_bytes(shape)) * config.attention_layers() +
         static_cast<double>(config.state_bytes());
}

double Lab::measure_reading() {
  const EngineAccess access = engine_.access();
  EngineParts& parts = access.parts;
  return parts.backend->instruments().measure_reading(parts.runner->target().matrices());
}

void Lab::measure_arithmetic(double* macs_per_second) {
  engine_.access().parts.backend->instruments().measure_arithmetic(macs_per_second);
}

Arithmetic Lab::arithmetic(DType type) { return engine_.access().parts.backend->instruments().arithmetic(type); }

LaunchCounts Lab::launch_counts() { return engine_.access().parts.backend->instruments().launch_counts(); }

}  // namespace frspec
