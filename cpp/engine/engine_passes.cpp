// Single passes of an engine: for measurements (bench.h), and for those who want logits.
#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "engine/engine.h"

namespace frspec {
namespace {

constexpr int kCalibration = 64, kRehearsed = 4;  // tokens at most, and steps
constexpr int kTurns = 3;
constexpr int kMaxBest = 64;                 // tokens after each that forward() tells
constexpr double kCalibrationSeconds = 1.5;  // for trees that are rarely wanted

}  // namespace

void Engine::time_prompt(std::int32_t prefix, std::span<const TokenId> tokens) {
  const Lock lock(*this);
  reset();
  target_->cache().set_length(prefix);
  for (std::size_t first = 0; first < tokens.size(); first += static_cast<std::size_t>(batch_)) {
    const auto chunk = tokens.subspan(first, std::min(static_cast<std::size_t>(batch_), tokens.size() - first));
    const int rows = static_cast<int>(chunk.size());
    run_chunk(chunk);
    if (first + chunk.size() == tokens.size()) {
      const Rows last{.count = 1, .prefix = target_->cache().length()};
      verifier_->sample(last, rows - 1, ids_.as<std::int32_t>(), Sampler{});
    }
    set_count(rows);
    target_->cache().advance(count_.as<std::int32_t>());
  }
  backend_->wait();
}

void Engine::time_tree(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents) {
  const Lock lock(*this);
  reset();
  target_->cache().set_length(prefix);
  const DraftTree tree(*backend_, tokens, parents);
  target_->forward(tree.view().tokens, tree.rows(target_->cache().length()));
  verifier_->verify(tree, Sampler{});
  verifier_->post(0);
  (void)verifier_->read(0);
}

// What the tuner should know before it costs a text anything: how long passes of a few sizes take, and a few drafted
// steps. What they write is of no account. The caller holds the lock.
void Engine::calibrate() {
  calibrates_ = calibrated_ = true;
  if (tuner_->knows_costs()) return void(calibrates_ = false);
  try {
    using Clock = std::chrono::steady_clock;
    const auto beginning = Clock::now();
    const auto elapsed = [](Clock::time_point since) {
      return std::chrono::duration<double>(Clock::now() - since).count();
    };
    const int most = tree_bounds(options_).size;
    const std::vector<int> sizes = options_.tree ? std::vector{1, most} : std::vector{1, 2, 3, 4, 6, 8, 12, 16};
    // By turns: a moment in which the machine is slow is not one size's alone. Large trees are rarely wanted.
    for (int turn = 0; turn < kTurns; ++turn) {
      for (const int nodes : sizes) {
        if (nodes > most || (turn > 0 && nodes > 2 && elapsed(beginning) > kCalibrationSeconds)) continue;
        if (nodes > 8 && elapsed(beginning) > kCalibrationSeconds / 2) continue;
        const std::vector<TokenId> tokens(static_cast<std::size_t>(nodes), 0);
        std::vector<std::int32_t> parents(static_cast<std::size_t>(nodes), 0);  // all below the root
        parents[0] = -1;
        const auto start = Clock::now();
        time_tree(0, tokens, parents);
        tuner_->know_target(nodes, elapsed(start));
      }
    }
    const auto text = this->begin({0}, {.max_tokens = kCalibration, .ignore_eos = true, .draft = DraftMode::Always});
    text->counts_ = false;
    tuner_->rehearse({1, 1, 2, 4});
    for (int step = 0; step < kRehearsed && text->finish_reason() == FinishReason::None; ++step) (void)text->step();
  } catch (const std::exception&) {  // a model that overflows says so when it is asked for a text
  }
  tuner_->rehearse({});
  if (options_.states) options_.states->states.clear();
  calibrates_ = false;
}

void Engine::time_draft() {
  const Lock lock(*this);
  ++ticket_;
  backend_->end_loop();
  (void)drafter_->propose(root_.as<std::int32_t>(), nullptr);
  backend_->wait();
}

StateRecord Engine::take_states() {
  const Lock lock(*this);
  if (!options_.states) fail("take_states: found an engine that notes none, expected states > 0");
  StateRecord taken = *options_.states;
  options_.states->states.clear();
  return taken;
}

// The most probable tokens after the rows of the pass that has just run, which are tokens `first` and following.
void Engine::add_best(Forward& result, int rows, std::size_t first, int best) {
  const auto width = static_cast<std::size_t>(best);
  const Buffer ids = backend_->allocate(kLogitRows * width * sizeof(TokenId));
  const Buffer scores = backend_->allocate(kLogitRows * width * sizeof(float));
  for (int row = 0; row < rows; row += kLogitRows) {
    const Tensor some = target_->hidden(rows).row_range(row, std::min(kLogitRows, rows - row));
    const BestTokens found{.ids = ids.as<std::int32_t>(), .scores = scores.as<float>(), .k = best};
    backend_->head_top_k(found, some, {.weight = &target_->head()}, nullptr);
    const std::size_t at = (first + static_cast<std::size_t>(row)) * width;
    const std::size_t count = static_cast<std::size_t>(some.rows) * width;
    backend_->download(result.best.data() + at, found.ids, count * sizeof(TokenId));
    backend_->download(result.log_probs.data() + at, found.scores, count * sizeof(float));
  }
}

Engine::Forward Engine::forward(std::span<const TokenId> tokens, int best) {
  if (tokens.empty() || tokens.size() > static_cast<std::size_t>(context_)) {
    fail("forward: found ", tokens.size(), " tokens, expected 1 to ", context_, ", the context");
  }
  const int most = std::min(kMaxBest, target_->config().vocab);
  if (best < 0 || best > most) fail("forward: found best ", best, ", expected 0 to ", most);
  check_tokens(tokens);
  const Lock lock(*this);
  reset();
  const auto vocab = static_cast<std::size_t>(target_->config().vocab);
  const auto dim = static_cast<std::size_t>(target_->config().dim);
  Forward result;
  result.taps.assign(static_cast<std::size_t>(taps_), std::vector<float>(tokens.size() * dim));
  if (best == 0) result.logits.resize(tokens.size() * vocab);
  result.best.resize(tokens.size() * static_cast<std::size_t>(best));
  result.log_probs.resize(result.best.size());
  const auto batch = static_cast<std::size_t>(batch_);
  for (std::size_t first = 0; first < tokens.size(); first += batch) {
    const auto chunk = tokens.subspan(first, std::min(batch, tokens.size() - first));
    const int rows = static_cast<int>(chunk.size());
    run_chunk(chunk);
    if (best > 0) add_best(result, rows, first, best);
    for (int row = 0; best == 0 && row < rows; row += kLogitRows) {
      const Tensor some = target_->hidden(rows).row_range(row, std::min(kLogitRows, rows - row));
      const Tensor logits = target_->logits(some);
      backend_->download(result.logits.data() + (first + static_cast<std::size_t>(row)) * vocab, logits.data,
                         static_cast<std::size_t>(logits.rows) * vocab * sizeof(float));
    }
    for (int t = 0; t < taps_; ++t) {
      backend_->download(result.taps[static_cast<std::size_t>(t)].data() + first * dim, target_->tap(t, rows).data,
                         chunk.size() * dim * sizeof(float));
    }
    set_count(rows);
    target_->cache().advance(count_.as<std::int32_t>());
  }
  return result;
}

std::vector<float> Engine::forward_tree(std::span<const TokenId> prefix, std::span<const TokenId> tokens,
                                        std::span<const std::int32_t> parents) {
  check_tokens(prefix);
  check_tokens(tokens);
  if (prefix.size() + tokens.size() > static_cast<std::size_t>(context_) ||
      tokens.size() > static_cast<std::size_t>(batch_)) {
    fail("forward_tree: found ", prefix.size(), " + ", tokens.size(), " tokens, expected at most ", context_,
         ", the context, and at most ", batch_, " in the tree, the batch");
  }
  const Lock lock(*this);
  reset();
  for (std::size_t first = 0; first < prefix.size(); first += static_cast<std::size_t>(batch_)) {
    const auto chunk = prefix.subspan(first, std::min(static_cast<std::size_t>(batch_), prefix.size() - first));
    run_chunk(chunk);
    set_count(static_cast<std::int32_t>(chunk.size()));
    target_->cache().advance(count_.as<std::int32_t>());
  }
  const DraftTree tree(*backend_, tokens, parents);
  target_->forward(tree.view().tokens, tree.rows(target_->cache().length()));
  const auto vocab = static_cast<std::size_t>(target_->config().vocab);
  std::vector<float> result(tokens.size() * vocab);
  for (int row = 0; row < tree.size(); row += kLogitRows) {
    const Tensor some = target_->hidden(tree.size()).row_range(row, std::min(kLogitRows, tree.size() - row));
    const Tensor logits = target_->logits(some);
    backend_->download(result.data() + static_cast<std::size_t>(row) * vocab, logits.data,
                       static_cast<std::size_t>(logits.rows) * vocab * sizeof(float));
  }
  return result;
}

}  // namespace frspec
