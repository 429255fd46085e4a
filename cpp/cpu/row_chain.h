// The sampler chain applied to one row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/sampling.h"
#include "cpu/kernels.h"

namespace frspec::cpu {

// A column that is still in, and its logit.
struct Candidate {
  float value;
  std::int32_t id;
};

// Working memory for one row after the other.
class RowChain {
 public:
  // `recent`: the last tokens of the row's sequence, at most chain.last_n; `position`: where its next token will stand.
  // `allowed`: the bits of the tokens that may (TokenBits); null: all.
  void run(const Kernels& kernels, std::span<float> row, const SamplerChain& chain,
           std::span<const std::int32_t> recent, std::int64_t position, const std::uint32_t* allowed);

  std::vector<std::int32_t> recent;  // for the caller to collect a row's tokens in

 private:
  void penalize(std::span<float> row, const SamplerChain& chain, std::span<const std::int32_t> recent);
  // Fills kept_ with the best `count` columns, in no order.
  void keep_best(std::span<const float> row, std::int64_t count);
  // Fills kept_ with the columns from the best down, until they hold `share` of what `total` is the sum of: of
  // exp(value - best).
  void keep_nucleus(std::span<const float> row, float best, double total, double share);
  void keep_all(std::span<const float> row);
  void cut_typical(double typical_p);
  void cut_nucleus(double top_p);
  void cut_improbable(float min_p);
  float dynamic_temperature(const SamplerChain& chain);

  std::vector<Candidate> kept_;
  std::vector<double> weights_;    // of kept_: probabilities
  std::vector<double> distances_;  // of kept_: from the typical information
  std::vector<Candidate> typical_;
  std::vector<std::int32_t> order_;
  std::vector<std::int32_t> counts_;  // (V) zero between rows
};

}  // namespace frspec::cpu
