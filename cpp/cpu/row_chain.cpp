// The sampler chain of one row, as llama.cpp's samplers define it.
#include "cpu/row_chain.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace frspec::cpu {
namespace {

constexpr float kOut = -std::numeric_limits<float>::infinity();

bool is_before(const Candidate& a, const Candidate& b) { return a.value != b.value ? a.value > b.value : a.id < b.id; }

// exp(value - best) of each candidate, not normalised; their sum is returned.
double weigh(std::span<const Candidate> candidates, float best, std::vector<double>& weights) {
  weights.resize(candidates.size());
  double total = 0.0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    weights[i] = std::exp(static_cast<double>(candidates[i].value) - static_cast<double>(best));
    total += weights[i];
  }
  return total;
}

bool is_in(const std::uint32_t* bits, std::size_t token) { return (bits[token / 32] >> (token % 32) & 1u) != 0; }

void forbid(std::span<float> row, const std::uint32_t* allowed) {
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (!is_in(allowed, i)) row[i] = kOut;
  }
}

// Whether something is allowed that is not held back.
bool leaves_others(std::size_t size, const SamplerChain& chain, const std::uint32_t* allowed) {
  int left = 0;
  for (int i = 0; i < chain.held; ++i) left -= is_in(allowed, static_cast<std::size_t>(chain.held_ids[i])) ? 1 : 0;
  for (std::size_t i = 0; i < size && left <= 0; ++i) left += is_in(allowed, i) ? 1 : 0;
  return left > 0;
}

// Shannon entropy, in nats, of weights that add up to `total`.
double entropy(std::span<const double> weights, double total) {
  double sum = 0.0;
  for (const double w : weights) {
    if (w > 0.0) sum -= w / total * std::log(w / total);
  }
  return sum;
}

}  // namespace

void RowChain::run(const Kernels& kernels, std::span<float> row, const SamplerChain& chain,
                   std::span<const std::int32_t> recent_tokens, std::int64_t position, const std::uint32_t* allowed) {
  if (allowed != nullptr) forbid(row, allowed);
  for (int i = 0; i < chain.biased; ++i) row[static_cast<std::size_t>(chain.bias_ids[i])] += chain.bias[i];
  if (position < chain.held_until && (allowed == nullptr || leaves_others(row.size(), chain, allowed))) {
    for (int i = 0; i < chain.held; ++i) row[static_cast<std::size_t>(chain.held_ids[i])] = kOut;
  }
  if (chain.has_penalties()) penalize(row, chain, recent_tokens);

  const auto cols = static_cast<std::int64_t>(row.size());
  const float best = kernels.maximum(row.data(), cols);
  if (!std::isfinite(best)) return;
  const bool sampled = chain.temperature > 0.0f;
  // The most probable token passes every filter but typical-p.
  const bool filters = sampled ? chain.filters() : chain.typical_p < 1.0f;
  if (!filters && chain.dynatemp_range == 0.0f) {
    if (sampled && chain.temperature != 1.0f) {
      for (float& x : row) x /= chain.temperature;
    }
    return;
  }

  if (chain.top_k > 0) {
    keep_best(row, std::min<std::int64_t>(chain.top_k, cols));
  } else if (chain.typical_p == 1.0f && chain.top_p < 1.0f) {
    keep_nucleus(row, best, static_cast<double>(kernels.sum_exp(row.data(), cols, best)),
                 static_cast<double>(chain.top_p));
  } else {
    keep_all(row);
  }
  if (chain.typical_p < 1.0f) cut_typical(static_cast<double>(chain.typical_p));
  // The rest goes from the best down.
  if (!std::is_sorted(kept_.begin(), kept_.end(), is_before)) std::sort(kept_.begin(), kept_.end(), is_before);
  if (chain.top_p < 1.0f && (chain.top_k > 0 || chain.typical_p < 1.0f)) cut_nucleus(static_cast<double>(chain.top_p));
  if (chain.min_p > 0.0f) cut_improbable(chain.min_p);
  const float temperature = sampled ? dynamic_temperature(chain) : 1.0f;
  std::fill(row.begin(), row.end(), kOut);
  for (const Candidate& c : kept_) row[static_cast<std::size_t>(c.id)] = c.value / temperature;
}

void RowChain::penalize(std::span<float> row, const SamplerChain& chain, std::span<const std::int32_t> recent_tokens) {
  counts_.resize(row.size(), 0);
  for (const std::int32_t id : recent_tokens) ++counts_[static_cast<std::size_t>(id)];
  for (const std::int32_t id : recent_tokens) {
    std::int32_t& count = counts_[static_cast<std::size_t>(id)];
    if (count == 0) continue;  // this token had its turn
    float& x = row[static_cast<std::size_t>(id)];
    x = x <= 0.0f ? x * chain.repeat : x / chain.repeat;
    x -= static_cast<float>(count) * chain.frequency + chain.presence;
    count = 0;
  }
}

void RowChain::keep_all(std::span<const float> row) {
  kept_.clear();
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (row[i] > kOut) kept_.push_back({row[i], static_cast<std::int32_t>(i)});
  }
}

void RowChain::keep_best(std::span<const float> row, std::int64_t count) {
  // A heap whose top is the worst that is kept; most columns end at the first comparison.
  kept_.clear();
  float bar = kOut;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (!(row[i] > bar)) continue;
    const bool full = static_cast<std::int64_t>(kept_.size()) == count;
    if (full) {
      std::pop_heap(kept_.begin(), kept_.end(), is_before);
      kept_.pop_back();
    }
    kept_.push_back({row[i], static_cast<std::int32_t>(i)});
    std::push_heap(kept_.begin(), kept_.end(), is_before);
    if (static_cast<std::int64_t>(kept_.size()) == count) bar = kept_.front().value;
  }
}

void RowChain::keep_nucleus(std::span<const float> row, float best, double total, double share) {
  // Mostly a few columns near the best are all: look at slices of the values, from the top.
  kept_.clear();
  double sum = 0.0;
  float above = std::numeric_limits<float>::infinity();
  for (float depth = 4.0f;; depth *= 1.6f) {
    const float low = best - depth;
    const bool last = depth > 100.0f;  // exp(-100) adds nothing to a double's sum
    const std::size_t begin = kept_.size();
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (row[i] < above && (row[i] >= low || (last && row[i] > kOut))) {
        kept_.push_back({row[i], static_cast<std::int32_t>(i)});
      }
    }
    std::sort(kept_.begin() + static_cast<std::ptrdiff_t>(begin), kept_.end(), is_before);
    for (std::size_t i = begin; i < kept_.size(); ++i) {
      sum += std::exp(static_cast<double>(kept_[i].value) - static_cast<double>(best));
      if (sum >= share * total) {
        kept_.resize(i + 1);
        return;
      }
    }
    if (last) return;
    above = low;
  }
}

// Locally typical sampling (Meister et al., 2202.00666): the columns whose information is nearest to the entropy, until
// they hold more than typical_p.
void RowChain::cut_typical(double typical_p) {
  const float best = std::max_element(kept_.begin(), kept_.end(), [](const Candidate& a, const Candidate& b) {
                       return a.value < b.value;
                     })->value;
  const double total = weigh(kept_, best, weights_);
  const double mean = entropy(weights_, total);
  const double log_total = std::log(total);
  distances_.resize(kept_.size());
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    const double log_prob = static_cast<double>(kept_[i].value) - static_cast<double>(best) - log_total;
    distances_[i] = std::abs(-log_prob - mean);
  }
  // A heap, because mostly a part of the columns is enough.
  order_.resize(kept_.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto is_after = [&](std::int32_t a, std::int32_t b) {
    const double da = distances_[static_cast<std::size_t>(a)], db = distances_[static_cast<std::size_t>(b)];
    return da != db ? da > db : kept_[static_cast<std::size_t>(a)].id > kept_[static_cast<std::size_t>(b)].id;
  };
  std::make_heap(order_.begin(), order_.end(), is_after);
  double sum = 0.0;
  typical_.clear();
  for (auto end = order_.end(); end != order_.begin() && sum <= typical_p * total; --end) {
    std::pop_heap(order_.begin(), end, is_after);
    const auto at = static_cast<std::size_t>(*(end - 1));
    sum += weights_[at];
    typical_.push_back(kept_[at]);
  }
  kept_.swap(typical_);
}

void RowChain::cut_nucleus(double top_p) {
  const double total = weigh(kept_, kept_.front().value, weights_);
  double sum = 0.0;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    sum += weights_[i];
    if (sum >= top_p * total) {
      kept_.resize(i + 1);
      return;
    }
  }
}

void RowChain::cut_improbable(float min_p) {
  const float least = kept_.front().value + std::log(min_p);
  while (kept_.size() > 1 && kept_.back().value < least) kept_.pop_back();
}

// From temperature - range to temperature + range, by the entropy of what is left over the largest it could have.
float RowChain::dynamic_temperature(const SamplerChain& chain) {
  if (chain.dynatemp_range == 0.0f || kept_.size() < 2) return chain.temperature;
  const float least = std::max(0.0f, chain.temperature - chain.dynatemp_range);
  const float most = chain.temperature + chain.dynatemp_range;
  const double total = weigh(kept_, kept_.front().value, weights_);
  const double share = std::max(0.0, entropy(weights_, total)) / std::log(static_cast<double>(kept_.size()));
  const float found =
      least + (most - least) * static_cast<float>(std::pow(share, static_cast<double>(chain.dynatemp_exponent)));
  return std::max(found, 1e-6f);
}

}  // namespace frspec::cpu
