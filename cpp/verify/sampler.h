// How the next token is chosen from logits: the same rule for plain and for speculative decoding (contract 2).
//
// The chain is llama.cpp's: logit bias, penalties, top-k, typical-p, top-p, min-p, temperature (docs/sampling.md); its
// defaults are llama.cpp's, too, but for the temperature, which is 0 here. What is left is drawn from with noise that
// is keyed by seed, position and token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

struct SamplingOptions {
  float temperature = 0.0f;  // 0: the most probable token
  float dynatemp_range = 0.0f;
  float dynatemp_exponent = 1.0f;
  int top_k = 40;  // 0 (or -1): all
  float top_p = 0.95f;
  float min_p = 0.05f;
  float typical_p = 1.0f;
  float repeat_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  int repeat_last_n = 64;  // tokens the penalties look at; 0: none, -1: the whole text
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::uint64_t seed = 0;
};

// Changes processed logits in place: the text so far (prompt included), and one value for each token of the vocabulary,
// -infinity where it is out. It must be a pure function of the two, or drafted and plain text differ.
using LogitsProcessor = std::function<void(std::span<const TokenId> text, std::span<float> logits)>;

// Checks everything that does not depend on a model. Throws InvalidInput that names the option.
void check_sampling(const SamplingOptions& options);

// The rules of one text, with their lists in a backend's memory.
class Sampler {
 public:
  // Plain argmax.
  Sampler() = default;
  // `history`: the tokens of the text on the device, for penalties. `held`: tokens that may not stand below position
  // `held_until`. Throws InvalidInput for a bias on an id outside the vocabulary of `vocab` tokens.
  Sampler(Backend& backend, const SamplingOptions& options, int vocab, const std::int32_t* history, int context,
          std::span<const TokenId> held = {}, std::int64_t held_until = 0);

  const SamplerChain& chain() const { return chain_; }
  // The draw from logits that nobody changed, where the chain is plain.
  const Sampling& draw() const { return draw_; }
  // The draw from logits that went through the chain, which has applied the temperature.
  Sampling draw_after_chain() const { return {draw_.temperature > 0.0f ? 1.0f : 0.0f, draw_.seed}; }

 private:
  Sampling draw_;
  SamplerChain chain_;
  Buffer bias_ids_, bias_, held_ids_;
};

}  // namespace frspec
