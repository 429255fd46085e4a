// EAGLE-3 (Li et al., 2503.01840), and the norms of its version 3.1: one transformer block that continues a mixture of
// the target's inner states.
//
//   g_i = fc(concat(the inputs of three of the target's layers at i))     of drafted tokens: the drafter's own output;
//   the block at position i: its attention reads concat(norm(embed(token_{i+1})), norm(g_i)), its stream begins as g_i;
//   the result is g of the next level and, through the final norm, goes to the head, which may have fewer rows than
//   there are tokens: d2t says which.
#pragma once

#include <functional>
#include <memory>

#include "draft/eagle_drafter.h"

namespace frspec {

// Reads the tensors but those of the head, and checks them; `context`: tokens of a text, at most.
EagleWeights read_eagle3_weights(WeightLoader& loader, const ModelConfig& config, const Eagle3Options& options,
                                 int context);

class Eagle3Drafter final : public EagleDrafter {
 public:
  // Reads the drafter and checks that it fits the target, whose features() are the taps that the file names. The head
  // (tensors output.weight and d2t) is the caller's.
  Eagle3Drafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
                std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
                std::function<void(std::size_t)> on_bytes = nullptr);

 private:
  Tensor run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) override;
  Tensor run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents, const Rows& rows) override;
  Tensor head_input(Tensor states) override;
  // The block over the first rows of stream(), which hold g. The right half of input() holds its norm.
  Tensor run(const std::int32_t* tokens, const Rows& rows);
  const float* values(const Buffer& norm) const { return norm ? norm.as<float>() : nullptr; }

  Eagle3Options options_;
  Buffer normed_taps_;  // (rows, taps * target dim); empty unless each tap has a norm of its own
  Buffer head_input_;   // (branch, dim)
};

}  // namespace frspec
