// Drafters that models bring along for themselves ("nextn" blocks, multi-token prediction): one block of the target's
// kind that continues the target's own hidden states.
//
//   x = eh_proj(concat(norm(embed(token_{i+1})), norm(hidden_i)))   at position i, then the block and a norm of its
//   own; the result goes through the target's head (or a subset of it, or one of its own) and is the hidden state of
//   the next level.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "draft/eagle_drafter.h"

namespace frspec {

// Whether the file drafts by a nextn block: it has one, or says so and has nothing else to draft with.
bool is_mtp(const GgufFile& file);
// Whether it has nothing but such a block.
bool is_mtp_alone(const GgufFile& file);
// The name of a tensor of the block.
std::string mtp_tensor(const ModelConfig& config, std::string_view name);

// Reads the block and what is around it but the head, and checks it; `context`: tokens of a text, at most.
EagleWeights read_mtp_weights(WeightLoader& loader, const ModelConfig& config, int context);

class MtpDrafter final : public EagleDrafter {
 public:
  // Reads the block and checks that it fits the target. The file may be the target's own, or have the block alone. The
  // head (tensors output.weight or nextn.shared_head_head.weight, and d2t) is the caller's.
  MtpDrafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
             std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
             std::function<void(std::size_t)> on_bytes = nullptr);

  std::vector<const Weight*> matrices() const override;

 private:
  Tensor run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) override;
  Tensor run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents, const Rows& rows) override;
  // The network over the first rows of input(), whose right half holds states.
  Tensor run(const std::int32_t* tokens, const Rows& rows);
};

}  // namespace frspec
