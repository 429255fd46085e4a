// The head policies: which rows of the LM head a drafter looks at. All are fillings of one interface: hidden rows in,
// the best k (token ids of the full vocabulary, log-probabilities) out. Nobody else knows that a subset exists.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

// A policy as users write it: "full" or "ranked:N".
struct HeadSpec {
  enum class Kind { Full, Ranked } kind = Kind::Full;
  int size = 0;  // rows, for Ranked

  std::string text() const;
};
// Throws InvalidInput for anything else.
HeadSpec parse_head_spec(std::string_view text);

class DraftHead {
 public:
  virtual ~DraftHead() = default;
  virtual const Weight& rows() const = 0;                       // (size, dim): what a step multiplies with
  int size() const { return static_cast<int>(rows().rows()); }  // k may not exceed it
  // The k best tokens after each row of `hidden` (rows, dim): ids (rows, k), log-probabilities within the subset
  // (rows, k), best first, never above 0. With noise: the best under it, and their scores.
  virtual void top_k(Tensor hidden, int k, std::int32_t* ids, float* scores,
                     const std::optional<DraftNoise>& noise) = 0;
};

// All rows of `head`, which is the target's.
std::unique_ptr<DraftHead> make_full_head(Backend& backend, const Weight& head);
// The rows of `head` for the given tokens (ascending), packed once: FR-Spec's subset, 2502.14856, section 3.2. `rows`:
// where they are; none: each token's row is its id.
std::unique_ptr<DraftHead> make_listed_head(Backend& backend, const WeightSource& head, std::span<const TokenId> ids,
                                            std::span<const std::int32_t> rows = {});

}  // namespace frspec
