// What EAGLE's drafters have in common.
#include "draft/eagle_drafter.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace frspec {

std::unique_ptr<Weight> find_embedding(WeightLoader& loader, const ModelConfig& config, const std::string& name) {
  return loader.has(name) ? loader.table(name, config.vocab, config.dim) : nullptr;
}

EagleDrafter::EagleDrafter(Backend& backend, const ModelConfig& config, const CausalModel& target,
                           std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits)
    : backend_(backend),
      config_(config),
      limits_(limits),
      grower_(backend, shape, *head),
      embedding_(&target.embedding()),
      texts_(static_cast<std::size_t>(target.limits().places)),
      head_(std::move(head)),
      pages_(target.pages()) {
  limits_.rows = std::max(limits_.rows, grower_.pool().branch);
  apply(limits.rope, config_);
}

void EagleDrafter::allocate(EagleWeights weights) {
  weights_ = std::move(weights);
  if (weights_.embedding) embedding_ = weights_.embedding.get();
  const CandidatePool& pool = grower_.pool();
  rope_ = std::make_unique<RopeTable>(backend_, config_.rope, weights_.rope_factors, limits_.context + pool.levels + 1);
  const KvShape shape{limits_.kv, config_.kv_heads, config_.head_dim, pages_->slots()};
  cache_ = std::make_unique<KvCache>(backend_, config_.layers, shape, pages_);
  scratch_ = std::make_unique<BlockScratch>(backend_, config_, limits_.rows);
  input_ = floats(limits_.rows, 2 * std::int64_t{config_.dim});
  stream_ = floats(limits_.rows, config_.dim);
  last_states_ = floats(pages_->places(), config_.dim);
}

Buffer EagleDrafter::floats(std::int64_t rows, std::int64_t cols) const {
  return backend_.allocate(sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
}

std::vector<const Weight*> EagleDrafter::matrices() const {
  std::vector<const Weight*> result;
  for (const BlockWeights& block : weights_.blocks)
    for_each_matrix(block, [&](const Weight& w) { result.push_back(&w); });
  for (const Weight* weight : head_->matrices()) result.push_back(weight);
  return result;
}

void EagleDrafter::begin(const TextRules& rules) {
  text().rules = rules;
  if (rules.alone) head_->begin();
  cache_->set_length(0);
}

void EagleDrafter::accept(const Committed& committed) {
  const int rows = committed.rows;
  const Tensor states = run_text(committed.next, committed.features, cache_->chain(rows));
  cache_->advance(committed.count);
  const Tensor last = last_state();
  if (committed.last != nullptr) {
    backend_.gather_rows(last, states, committed.last);
  } else {
    backend_.copy(last, states.row_range(rows - 1, 1));
  }
}

const DraftTree& EagleDrafter::propose(Growth* growth) {
  const CandidatePool& pool = grower_.pool();
  Tensor states = last_state();
  const auto states_of = [&](int level, int rows) {
    if (level > 0) {
      states = run_drafted(pool.frontier_tokens, states, pool.frontier_rows,
                           grower_.frontier_rows(cache_->sequence(), level, rows));
    }
    return head_input(states);
  };
  if (growth != nullptr) {
    grower_.grow(*growth, *head_, text().rules, states_of);
    return grower_.select(*growth, text().root);
  }
  grower_.grow(*head_, text().rules, states_of);
  return grower_.select(text().rules.sequence);
}

void expect_of_target(const GgufFile& file, std::string_view key, int found, int expected, std::string_view what) {
  if (found == expected) return;
  fail(file.path().string(), ": key '", file.get_string("general.architecture"), ".", key, "': found ", found,
       ", expected ", expected, ", the target's ", what);
}

}  // namespace frspec
