// Single passes of an engine's parts: for measurements (bench.h), and for those who want logits or states.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace frspec {

// Each call has the engine for itself. What writes into the caches ends a sequence that is running.
class Lab {
 public:
  explicit Lab(Engine& engine) : engine_(engine) {}

  // Logits after each token, (tokens.size(), V), and the hidden states that were tapped (taps, tokens, dim). With
  // `best`, instead of logits so many most probable tokens, best first, and their log-probabilities, behind the tokens
  // from `from` on: (tokens - from, best).
  struct Forward {
    std::vector<float> logits;
    std::vector<TokenId> best;
    std::vector<float> log_probs;
    std::vector<std::vector<float>> taps;
  };
  Forward forward(std::span<const TokenId> tokens, std::optional<int> best = {}, std::size_t from = 0);
  // Logits after each node of a tree whose root follows `prefix`: (nodes, V).
  std::vector<float> forward_tree(std::span<const TokenId> prefix, std::span<const TokenId> tokens,
                                  std::span<const std::int32_t> parents);
  // The states that were noted (DraftOptions::states) since the last call: (count, dim), and dim.
  std::pair<std::vector<float>, std::size_t> take_states();

  // One pass behind the first `prefix` cached tokens, whatever they are: a prompt with its next token, or a tree with
  // its verdict. And one tree of the drafter, after a sequence's first step.
  void time_prompt(std::int32_t prefix, std::span<const TokenId> tokens);
  void time_tree(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents);
  // Of the last such prompt or tree, what the recurrent layers do beside their products.
  void time_states(std::int32_t prefix, int tokens);
  void time_states(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents);
  void time_draft();
  // From now on verdicts are made up (Verifier::pretend).
  void pretend(float probability);

  // Every matrix that all rows of a pass of the target, or of a level of the drafter's trees, are multiplied with, the
  // head's last.
  std::vector<const Weight*> target_matrices();
  std::vector<const Weight*> expert_matrices();  // of the target: a row is multiplied with some of each one's rows
  std::vector<const Weight*> draft_matrices();
  // Bytes that keys and values of a sequence of so many tokens take in all layers of the target.
  double cache_bytes(int tokens);
  double measure_reading();  // of the target's matrices: bytes per second
  void measure_arithmetic(double* macs_per_second);
  Arithmetic arithmetic(DType type);
  LaunchCounts launch_counts();

 private:
  Engine& engine_;
};

}  // namespace frspec
