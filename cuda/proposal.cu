// CUDA backend: drafts that are drawn from a distribution, for rejection sampling.
//
// Memory access: one block reads the candidates of a level (64 pairs) once, coalesced, and writes the level of the
// proposals the same way. The few sums and comparisons in order are one thread's; what they read is in shared memory.
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "cuda/cuda_backend.h"
#include "cuda/device/block.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

// What a draft is drawn by, as values.
struct ProposalRules {
  RejectionDraw draw;
  std::int32_t top_k;
  float top_p, min_p, temperature;
};

// One block: exponentials side by side, the few sums in the order of the candidates, as on the CPU.
__global__ void draw_draft(std::int32_t* token, float* log_prob, Proposals proposals, int level,
                           const std::int32_t* candidates, const float* log_probs, int most, ProposalRules rules,
                           const std::int32_t* position) {
  SharedMemory shared;
  auto* shares = shared.take<double>(most);
  auto* weights = shared.take<double>(most);
  auto* used = shared.take<std::int32_t>(1);
  auto* total = shared.take<double>(1);
  std::int32_t* ids = proposals.ids + level * proposals.width;
  float* probs = proposals.probs + level * proposals.width;
  const bool sampled = rules.temperature > 0.0f;
  const auto behind = [&](int i) { return static_cast<double>(log_probs[i]) - static_cast<double>(log_probs[0]); };
  for (int i = thread(); i < most; i += threads()) {
    shares[i] = std::exp(static_cast<double>(log_probs[i]));
    weights[i] = sampled ? std::exp(behind(i) / static_cast<double>(rules.temperature)) : 1.0;
  }
  block_sync();
  if (thread() == 0) {
    const double least = rules.min_p > 0.0f ? std::log(static_cast<double>(rules.min_p)) : 0.0;
    double before = 0.0, sum = 0.0;  // filters come before the temperature, as in the target's chain
    int i = 0;
    for (; i < most; ++i) {
      const bool is_out = before >= static_cast<double>(rules.top_p) || (rules.min_p > 0.0f && behind(i) < least) ||
                          rules.temperature == 0.0f;
      if (i > 0 && is_out) break;
      before += shares[i];
      sum += weights[i];
    }
    *used = i;
    *total = sum;
  }
  block_sync();
  // The probabilities are those of the floats that verification will read. Unused ones are ids, too.
  for (int i = thread(); i < proposals.width; i += threads()) {
    ids[i] = candidates[i < *used ? i : 0];
    probs[i] = i < *used ? static_cast<float>(weights[i] / *total) : 0.0f;
  }
  block_sync();
  for (int i = thread(); i < *used; i += threads()) {
    const auto at = static_cast<std::uint64_t>(*position + level + 1);
    const auto share = static_cast<double>(probs[i]);
    weights[i] = share > 0.0 ? std::log(share) +
                                   static_cast<double>(gumbel(rules.draw.seed, at, static_cast<std::uint32_t>(ids[i]),
                                                              rules.draw.drafts()))
                             : -INFINITY;
  }
  block_sync();
  if (thread() != 0) return;
  int drawn = 0;
  for (int i = 1; i < *used; ++i) {
    if (weights[i] > weights[drawn]) drawn = i;
  }
  *token = ids[drawn];
  const float prob = probs[drawn] < 1e-30f ? 1e-30f : probs[drawn];
  const float log = std::log(prob);
  *log_prob = log < 0.0f ? log : 0.0f;
}

}  // namespace

void CudaBackend::draw_proposal(std::int32_t* token, float* log_prob, const Proposals& proposals, int level,
                                const std::int32_t* candidates, const float* log_probs, int count,
                                const SamplerChain& chain, const RejectionDraw& draw, const std::int32_t* position) {
  const int most = std::min({count, proposals.width, chain.top_k > 0 ? chain.top_k : count});
  const ProposalRules rules = {draw, chain.top_k, chain.top_p, chain.min_p, chain.temperature};
  launch("draw_proposal", draw_draft, {}, 2 * kWarp,
         2 * shared_bytes<double>(most) + shared_bytes<std::int32_t>(1) + shared_bytes<double>(1), token, log_prob,
         proposals, level, candidates, log_probs, most, rules, position);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
