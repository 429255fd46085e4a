#include "vocab/token_counts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace frspec {
namespace {

constexpr double kLargestUnit = 0x1p500;  // then all weights are divided by it: long before anything overflows

}  // namespace

TokenCounts::TokenCounts(int vocab, std::int64_t half_life)
    : half_life_(half_life),
      growth_(std::exp2(1.0 / static_cast<double>(half_life))),
      weights_(static_cast<std::size_t>(vocab), 0.0) {}

TokenCounts::TokenCounts(std::vector<double> weights, std::int64_t counted, std::int64_t half_life)
    : half_life_(half_life),
      growth_(std::exp2(1.0 / static_cast<double>(half_life))),
      counted_(counted),
      weights_(std::move(weights)) {}

double TokenCounts::total() const { return std::accumulate(weights_.begin(), weights_.end(), 0.0) / unit_; }

void TokenCounts::add(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) {
    unit_ *= growth_;
    weights_[static_cast<std::size_t>(token)] += unit_;
    if (unit_ > kLargestUnit) rescale();
  }
  counted_ += static_cast<std::int64_t>(tokens.size());
}

void TokenCounts::add_prior(std::span<const double> counts, double tokens) {
  const double scale = unit_ * tokens / std::accumulate(counts.begin(), counts.end(), 0.0);
  for (std::size_t i = 0; i < weights_.size(); ++i) weights_[i] += scale * counts[i];
}

void TokenCounts::add_later(const TokenCounts& others) {
  rescale();
  const double left = std::exp2(-static_cast<double>(others.counted_) / static_cast<double>(half_life_));
  for (std::size_t i = 0; i < weights_.size(); ++i)
    weights_[i] = weights_[i] * left + others.weights_[i] / others.unit_;
  counted_ += others.counted_;
}

std::vector<TokenId> TokenCounts::best(int n) const {
  std::vector<TokenId> ids(weights_.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto better = [this](TokenId a, TokenId b) {
    const double x = weights_[static_cast<std::size_t>(a)], y = weights_[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const auto end = ids.begin() + n;
  std::nth_element(ids.begin(), end, ids.end(), better);
  std::sort(ids.begin(), end, better);
  ids.resize(static_cast<std::size_t>(n));
  return ids;
}

void TokenCounts::rescale() {
  for (double& weight : weights_) weight /= unit_;
  unit_ = 1.0;
}

std::vector<double> zipf_counts(std::span<const TokenId> ranked, const Tokenizer& tokenizer) {
  std::vector<double> counts(static_cast<std::size_t>(tokenizer.size()), 0.0);
  double rank = 0.0;
  for (const TokenId id : ranked) {
    if (tokenizer.token_type(id) != TokenType::Control) counts[static_cast<std::size_t>(id)] = 1.0 / ++rank;
  }
  return counts;
}

}  // namespace frspec
