// EAGLE-1/2 (Li et al., 2401.15077 and 2406.16858): one transformer block that continues the target's own hidden
// states.
//
//   x = fc(concat(embed(token_{i+1}), hidden_i))   at position i, then the block(s), without a final norm;
//   the result goes through the target's head (or a subset of it) and is the hidden state of the next level.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "draft/eagle_drafter.h"

namespace frspec {

// Reads the tensors, and checks them; `context`: tokens of a text, at most.
EagleWeights read_eagle2_weights(WeightLoader& loader, const ModelConfig& config, int context);

class Eagle2Drafter final : public EagleDrafter {
 public:
  // Reads the drafter and checks that it fits the target: hidden size, vocabulary, every tensor.
  Eagle2Drafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
                std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
                std::function<void(std::size_t)> on_bytes = nullptr);

  std::vector<const Weight*> matrices() const override;

 private:
  Tensor run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) override;
  Tensor run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents, const Rows& rows) override;
  Tensor run(const Rows& rows);  // fc and the blocks, over the first rows of input()
};

}  // namespace frspec
