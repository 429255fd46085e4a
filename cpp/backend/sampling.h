// How a token is chosen from logits, as a backend sees it: a chain of changes to the logits, then one draw.
#pragma once

#include <cstdint>

namespace frspec {

// The draw: argmax over v of logits[v] / temperature + gumbel(seed, position, v); plain argmax at temperature 0.
struct Sampling {
  float temperature = 0.0f;
  std::uint64_t seed = 0;
};

// What happens to a row of logits before the draw, in this order (llama.cpp's): what Rows::allowed forbids, bias,
// penalties, top-k, typical-p, top-p, min-p, temperature. Tokens that are out get -infinity. Every field's default
// changes nothing, except the temperature: 0 leaves the values as they are, for a plain argmax.
//
// Penalties look at the last `last_n` tokens of a row's logical sequence: the text so far, `history`, and the row's own
// path in the pass, its own token included.
struct SamplerChain {
  int biased = 0;  // entries of bias_ids and bias
  const std::int32_t* bias_ids = nullptr;
  const float* bias = nullptr;
  // Tokens, each once, that may not stand at a position below `held_until`, unless nothing else is allowed there.
  int held = 0;
  const std::int32_t* held_ids = nullptr;
  std::int64_t held_until = 0;

  int last_n = 0;  // 0: no penalties
  float repeat = 1.0f;
  float frequency = 0.0f;
  float presence = 0.0f;
  const std::int32_t* history = nullptr;  // tokens of the text, as many as the pass has in its prefix

  int top_k = 0;  // 0: all
  float typical_p = 1.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;

  float temperature = 0.0f;
  float dynatemp_range = 0.0f;  // above 0: temperature +- range, by the entropy of what is left
  float dynatemp_exponent = 1.0f;

  constexpr bool has_penalties() const {
    return last_n > 0 && (repeat != 1.0f || frequency != 0.0f || presence != 0.0f);
  }
  // Whether it takes tokens out by their probability.
  constexpr bool filters() const { return top_k > 0 || typical_p < 1.0f || top_p < 1.0f || min_p > 0.0f; }
  // Whether the draw alone would do: nothing but a temperature, which the draw knows, too. (The most probable token
  // passes every filter but typical-p.)
  constexpr bool is_plain() const {
    if (biased > 0 || held > 0 || has_penalties() || typical_p < 1.0f) return false;
    return temperature == 0.0f || (!filters() && dynatemp_range == 0.0f);
  }
};

// Rejection sampling (Leviathan et al., 2211.17192; Chen et al., 2302.01318): what a chain of drafts was drawn from.
// Level i is about the child of chain node i: up to `width` tokens of the target and their probabilities, 0 where
// unused. A drafter that draws nothing has none: its token then has probability 1.
struct Proposals {
  int width = 0;
  std::int32_t* ids = nullptr;  // (levels, width)
  float* probs = nullptr;       // (levels, width)
};

// Random numbers of one step of rejection sampling. Verification may look at all drafts of a step, so no number may be
// used in two steps.
struct RejectionDraw {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;

  constexpr std::uint32_t drafts() const { return 4 * step + 1; }  // streams of base/random.h
  constexpr std::uint32_t acceptance() const { return 4 * step + 2; }
  constexpr std::uint32_t residual() const { return 4 * step + 3; }
};

}  // namespace frspec
