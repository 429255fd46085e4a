// Drafting with an eye on the noise.
#include "draft/keyed.h"

namespace frspec {
namespace {

// The drafter's logits count for a little more than they say (docs/sampling.md has the measurement).
constexpr float kTrust = 1.1f;

}  // namespace

std::optional<DraftNoise> noise_of(const TextRules& rules) {
  if (rules.draw.temperature == 0.0f || rules.rejection != nullptr) return std::nullopt;
  const SamplerChain& chain = *rules.chain;
  return DraftNoise{.draw = {rules.draw.temperature / kTrust, rules.draw.seed},
                    .position = rules.sequence.length,
                    .top_k = chain.top_k,
                    .top_p = chain.top_p,
                    .min_p = chain.min_p};
}

}  // namespace frspec
