// How often each token occurs in texts that go on and on: what is new counts more than what is old.
//
// A token that is counted now weighs 1, and half of that after `half_life` further tokens of whatever kind. Decay is
// the same for all, so it changes no order: instead of making all weights smaller with every token, what a token adds
// grows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace frspec {

// 200,000 tokens are some 1,500 answers. All that weighs is worth 290,000 tokens then: long enough to have met the
// first ten thousand tokens of a language, each of which comes once in 100,000 or more often; short enough that whoever
// turns to other texts is followed. Tokens that never come keep the order of what is known in advance, which decay does
// not change.
inline constexpr std::int64_t kHalfLife = 200'000;

class TokenCounts {
 public:
  // `vocab` tokens that have not occurred; half_life >= 1.
  explicit TokenCounts(int vocab, std::int64_t half_life = kHalfLife);
  // What was known after `counted` tokens.
  TokenCounts(std::vector<double> weights, std::int64_t counted, std::int64_t half_life);

  int vocab() const { return static_cast<int>(weights_.size()); }
  std::int64_t half_life() const { return half_life_; }
  std::int64_t counted() const { return counted_; }  // tokens, ever: the clock of decay
  double weight(TokenId token) const { return weights_[static_cast<std::size_t>(token)] / unit_; }
  double total() const;  // of all weights
  // Weights in a unit of their own that changes with time: for comparing them with each other.
  std::span<const double> scaled_weights() const { return weights_; }

  // The tokens occurred once each, in this order. Ids of the vocabulary. Allocates nothing.
  void add(std::span<const TokenId> tokens);
  // What is known in advance, as if `tokens` tokens had just been counted in the proportions of `counts` (vocab), which
  // are 0 or more and not all 0.
  void add_prior(std::span<const double> counts, double tokens);
  // Adds what others have counted since, by the same half-life: all that is here ages by as many tokens.
  void add_later(const TokenCounts& others);

  // The `n` tokens of the largest weights, best first, ties to the lower id; n <= vocab. O(V) for small n.
  std::vector<TokenId> best(int n) const;

 private:
  void rescale();

  std::int64_t half_life_;
  double growth_;      // of the unit with every token
  double unit_ = 1.0;  // what a token adds now
  std::int64_t counted_ = 0;
  std::vector<double> weights_;  // (vocab) times unit_
};

// Counts that a list without any might have had (Zipf's law): the token of rank r, from 1, occurs 1 / r times. Tokens
// that are not listed occur 0 times, and so do control tokens, which lists put first whatever their frequency.
std::vector<double> zipf_counts(std::span<const TokenId> ranked, const Tokenizer& tokenizer);

}  // namespace frspec
