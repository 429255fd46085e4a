// CPU backend: rejection sampling along a chain of drafts, token by token or as a block.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

// Draws an index with weight[i] > 0 by the Gumbel-max trick; `id_of` gives the token that the noise belongs to.
// -1 where all weights are 0.
template <class IdOf>
std::int32_t draw_index(std::span<const double> weights, IdOf&& id_of, std::uint64_t seed, std::uint64_t position,
                        std::uint32_t stream) {
  std::int32_t best = -1;
  double most = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0.0)) continue;
    const double value = std::log(weights[i]) +
                         static_cast<double>(gumbel(seed, position, static_cast<std::uint32_t>(id_of(i)), stream));
    if (best < 0 || value > most) {
      most = value;
      best = static_cast<std::int32_t>(i);
    }
  }
  return best;
}

// One level of a chain: what the target says, and what the drafter drew from.
struct Level {
  std::vector<double> p;  // (V)
  bool finite = true;
};

// softmax, or all on the best token at temperature 0.
void probabilities(Tensor row, bool sampled, Level& level) {
  const float* x = row.data;
  level.p.assign(static_cast<std::size_t>(row.cols), 0.0);
  const float* best = std::max_element(x, x + row.cols, [](float a, float b) { return a < b; });
  level.finite = std::isfinite(*best);
  if (!level.finite) return;
  if (!sampled) {
    level.p[static_cast<std::size_t>(best - x)] = 1.0;
    return;
  }
  double total = 0.0;
  for (std::int64_t v = 0; v < row.cols; ++v) {
    const double weight = std::exp(static_cast<double>(x[v]) - static_cast<double>(*best));
    level.p[static_cast<std::size_t>(v)] = weight > 0.0 ? weight : 0.0;  // not a number: out
    total += level.p[static_cast<std::size_t>(v)];
  }
  for (double& p : level.p) p /= total;
}

// q of a level as (token, probability) pairs.
class Proposal {
 public:
  Proposal(const Proposals* proposals, int level, std::int32_t drafted) : one_(drafted) {
    if (proposals == nullptr) return;
    ids_ = {proposals->ids + level * proposals->width, static_cast<std::size_t>(proposals->width)};
    probs_ = {proposals->probs + level * proposals->width, static_cast<std::size_t>(proposals->width)};
  }

  double of(std::int32_t token) const {
    if (ids_.empty()) return token == one_ ? 1.0 : 0.0;
    for (std::size_t i = 0; i < ids_.size(); ++i) {
      if (probs_[i] > 0.0f && ids_[i] == token) return static_cast<double>(probs_[i]);
    }
    return 0.0;
  }
  // max(scale p - q, 0) in place; their sum is returned.
  double residual(std::vector<double>& p, double scale) const {
    for (double& x : p) x *= scale;
    const auto take = [&](std::int32_t token, double q) { p[static_cast<std::size_t>(token)] -= q; };
    if (ids_.empty()) take(one_, 1.0);
    for (std::size_t i = 0; i < ids_.size(); ++i) {
      if (probs_[i] > 0.0f) take(ids_[i], static_cast<double>(probs_[i]));
    }
    double sum = 0.0;
    for (double& x : p) {
      x = std::max(x, 0.0);
      sum += x;
    }
    return sum;
  }

 private:
  std::int32_t one_;
  std::span<const std::int32_t> ids_;
  std::span<const float> probs_;
};

}  // namespace

void CpuBackend::draw_proposal(std::int32_t* token, float* log_prob, const Proposals& proposals, int level,
                               const std::int32_t* candidates, const float* log_probs, int count,
                               const SamplerChain& chain, const RejectionDraw& draw, const std::int32_t* position) {
  std::int32_t* ids = proposals.ids + level * proposals.width;
  float* probs = proposals.probs + level * proposals.width;
  std::fill_n(probs, proposals.width, 0.0f);
  std::fill_n(ids, proposals.width, candidates[0]);  // unused ones are ids, too
  std::vector<double> weights;
  double before = 0.0, total = 0.0;  // filters come before the temperature, as in the target's chain
  const int most = std::min({count, proposals.width, chain.top_k > 0 ? chain.top_k : count});
  for (int i = 0; i < most; ++i) {
    const double behind = static_cast<double>(log_probs[i]) - static_cast<double>(log_probs[0]);
    const bool is_out = before >= static_cast<double>(chain.top_p) ||
                        (chain.min_p > 0.0f && behind < std::log(static_cast<double>(chain.min_p))) ||
                        (chain.temperature == 0.0f);
    if (i > 0 && is_out) break;
    before += std::exp(static_cast<double>(log_probs[i]));
    ids[i] = candidates[i];
    weights.push_back(chain.temperature > 0.0f ? std::exp(behind / static_cast<double>(chain.temperature)) : 1.0);
    total += weights.back();
  }
  // The probabilities are those of the floats that verification will read.
  for (std::size_t i = 0; i < weights.size(); ++i) {
    probs[i] = static_cast<float>(weights[i] / total);
    weights[i] = static_cast<double>(probs[i]);
  }
  const std::int32_t drawn = draw_index(
      weights, [ids](std::size_t i) { return ids[i]; }, draw.seed, static_cast<std::uint64_t>(*position + level + 1),
      draw.drafts());
  const std::int32_t at = std::max(drawn, 0);
  *token = ids[at];
  *log_prob = std::min(0.0f, std::log(std::max(probs[at], 1e-30f)));
}

void CpuBackend::verify_rejection(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                                  const SamplerChain& chain, const Proposals* proposals, const RejectionDraw& draw,
                                  bool block) {
  const int drafts = tree.size - 1;
  const auto position_of = [&](int node) {
    return static_cast<std::uint64_t>(*rows.sequence.length + tree.depth[node]);
  };
  const auto processed_level = [&](int node) {
    Level level;
    probabilities(logits.row_range(node, 1), chain.temperature > 0.0f, level);
    return level;
  };
  const auto level_of = [&](int node) {  // once for each node: the chain changes its row
    process(logits.row_range(node, 1), rows.range(node, 1), tree.tokens, chain);
    return processed_level(node);
  };
  const auto proposal_of = [&](int node) { return Proposal(proposals, node, tree.tokens[node + 1]); };

  // How many drafts are kept, and what the token behind them is drawn from.
  int kept = 0;
  Level level = level_of(0);
  if (!block) {
    while (kept < drafts && level.finite) {
      const std::int32_t x = tree.tokens[kept + 1];
      const double u = uniform(draw.seed, position_of(kept + 1), draw.acceptance());
      if (u * proposal_of(kept).of(x) >= level.p[static_cast<std::size_t>(x)]) {
        proposal_of(kept).residual(level.p, 1.0);
        break;
      }
      level = level_of(++kept);
    }
  } else {
    // Algorithm 2 of 2403.10444: p_i there is `joint` here, and tau is `kept`.
    double joint = 1.0;
    Level last = level;
    if (drafts > 0 && level.finite) proposal_of(0).residual(level.p, 1.0);
    for (int i = 1; i <= drafts && last.finite; ++i) {
      const std::int32_t x = tree.tokens[i];
      joint = std::min(1.0, joint * last.p[static_cast<std::size_t>(x)] / proposal_of(i - 1).of(x));
      last = level_of(i);
      Level residual = last;
      double threshold = joint;
      if (i < drafts && last.finite) {
        const double sum = proposal_of(i).residual(residual.p, joint);
        threshold = sum + 1.0 - joint > 0.0 ? sum / (sum + 1.0 - joint) : 1.0;
      }
      if (uniform(draw.seed, position_of(i), draw.acceptance()) < threshold) {
        kept = i;
        level = std::move(residual);
      }
    }
  }
  for (int i = 0; i <= kept; ++i) {
    verdict.nodes[i] = i;
    verdict.tokens[i] = i < kept ? tree.tokens[i + 1] : -1;
  }
  *verdict.count = kept + 1;
  if (!level.finite) return;
  const std::uint64_t position = position_of(kept) + 1;
  const auto identity = [](std::size_t i) { return static_cast<std::int32_t>(i); };
  std::int32_t token = draw_index(level.p, identity, draw.seed, position, draw.residual());
  if (token < 0) {  // p equals q to the last digit, so there is no residual
    token = draw_index(processed_level(kept).p, identity, draw.seed, position, draw.residual());
  }
  verdict.tokens[kept] = token;
}

}  // namespace frspec::cpu
