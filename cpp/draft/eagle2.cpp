// The EAGLE-1/2 drafter.
#include "draft/eagle2.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"

namespace frspec {
namespace {

constexpr std::array<std::string_view, 4> kIgnored = {"token_ranks", "token_counts", "sketch_down.weight",
                                                      "sketch_vocab.weight"};  // read by vocab/

void check_fit(const GgufFile& file, const ModelConfig& drafter, const ModelConfig& target) {
  const auto check = [&](const char* key, int found, int expected, const char* what) {
    if (found != expected) {
      fail(file.path().string(), ": key 'eagle2.", key, "': found ", found, ", expected ", expected, ", the target's ",
           what);
    }
  };
  check("target_hidden_size", drafter.target_dim, target.dim, "hidden size");
  check("embedding_length", drafter.dim, target.dim, "hidden size");
  check("vocab_size", drafter.vocab, target.vocab, "vocabulary size");
}

}  // namespace

Eagle2Drafter::Eagle2Drafter(std::shared_ptr<const GgufFile> file, Backend& backend, const CausalModel& target,
                             std::unique_ptr<DraftHead> head, const TreeShape& shape, const Eagle2Limits& limits,
                             std::function<void(std::size_t)> on_bytes)
    : file_(std::move(file)),
      backend_(backend),
      config_(read_eagle2_config(*file_)),
      limits_(limits),
      head_(std::move(head)),
      embedding_(&target.embedding()),
      grower_(backend, shape, *head_) {
  check_fit(*file_, config_, target.config());
  WeightLoader loader(file_, backend_, std::move(on_bytes));
  if (loader.has("token_embd.weight")) {
    own_embedding_ = loader.table("token_embd.weight", config_.vocab, config_.dim);
    embedding_ = own_embedding_.get();
  }
  fc_ = {loader.matrix("fc.weight", config_.dim, 2 * std::int64_t{config_.dim}),
         loader.find_vector("fc.bias", config_.dim)};
  for (int i = 0; i < config_.layers; ++i) blocks_.push_back(load_block(loader, config_, i, i > 0));
  const auto factors = loader.rope_factors(config_.rope.dims / 2);
  loader.expect_all_read(kIgnored);

  const CandidatePool& pool = grower_.pool();
  const int behind = pool.levels * pool.branch;  // slots and, more than, positions behind the text
  rope_ = std::make_unique<RopeTable>(backend_, config_.rope, factors, limits_.context + pool.levels + 1);
  cache_ = std::make_unique<KvCache>(backend_, config_.layers,
                                     KvShape{limits_.kv, config_.kv_heads, config_.head_dim, limits_.context + behind});
  limits_.rows = std::max(limits_.rows, pool.branch);
  scratch_ = std::make_unique<BlockScratch>(backend_, config_, limits_.rows);
  const auto floats = [&](std::int64_t rows, std::int64_t cols) {
    return backend_.allocate(sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
  };
  input_ = floats(limits_.rows, 2 * std::int64_t{config_.dim});
  stream_ = floats(limits_.rows, config_.dim);
  last_hidden_ = floats(1, config_.dim);
}

std::vector<const Weight*> Eagle2Drafter::matrices() const {
  std::vector<const Weight*> result{fc_.weight.get()};
  for (const BlockWeights& block : blocks_) for_each_matrix(block, [&](const Weight& w) { result.push_back(&w); });
  for (const Weight* weight : head_->matrices()) result.push_back(weight);
  return result;
}

void Eagle2Drafter::begin(const TextRules& rules) {
  rules_ = rules;
  head_->begin();
  cache_->set_length(0);
}

Tensor Eagle2Drafter::forward(const Rows& rows) {
  const Tensor x = stream_.matrix(rows.count, config_.dim);
  backend_.matmul({input_.matrix(rows.count, 2 * config_.dim)}, std::array{fc_.onto(x)});
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    run_block(backend_, config_, blocks_[i], *scratch_, rope_->view(), cache_->layer(static_cast<int>(i)), rows, x);
  }
  return x;
}

void Eagle2Drafter::accept(const Committed& committed) {
  const int rows = committed.rows;
  head_->observe(committed.news());
  backend_.embed(input_tokens(rows), *embedding_, committed.next);
  backend_.copy(input_hidden(rows), committed.hidden);
  const Tensor x = forward(Rows{.count = rows, .prefix = cache_->length()});
  cache_->advance(committed.count);
  backend_.copy(last_hidden_.matrix(1, config_.dim), x.row_range(rows - 1, 1));
}

const DraftTree& Eagle2Drafter::propose(const std::int32_t* root) {
  const CandidatePool& pool = grower_.pool();
  Tensor hidden = last_hidden_.matrix(1, config_.dim);
  grower_.grow(*head_, rules_, [&](int level) {
    if (level > 0) {
      backend_.embed(input_tokens(pool.branch), *embedding_, pool.frontier_tokens);
      backend_.gather_rows(input_hidden(pool.branch), hidden, pool.frontier_rows);
      hidden = forward(grower_.tree().frontier_rows(cache_->length(), level - 1));
    }
    return hidden;
  });
  return grower_.select(root);
}

}  // namespace frspec
