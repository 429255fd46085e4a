// The EAGLE-1/2 drafter.
#include "draft/eagle2.h"

#include <array>
#include <string_view>

namespace frspec {
namespace {

constexpr std::array<std::string_view, 4> kIgnoredByEagle2 = {"token_ranks", "token_counts", "sketch_down.weight",
                                                              "sketch_vocab.weight"};  // read by vocab/

}  // namespace

Eagle2Drafter::Eagle2Drafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
                             std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
                             std::function<void(std::size_t)> on_bytes)
    : EagleDrafter(backend, read_eagle2_config(*file), target, std::move(head), shape, limits) {
  expect_of_target(*file, "target_hidden_size", config_.target_dim, target.config().dim, "hidden size");
  expect_of_target(*file, "embedding_length", config_.dim, target.config().dim, "hidden size");
  expect_of_target(*file, "vocab_size", config_.vocab, target.config().vocab, "vocabulary size");
  WeightLoader loader(file, backend_, std::move(on_bytes));
  load_embedding(loader);
  fc_ = {loader.matrix("fc.weight", config_.dim, 2 * std::int64_t{config_.dim}),
         loader.find_vector("fc.bias", config_.dim)};
  for (int i = 0; i < config_.layers; ++i) {
    blocks_.push_back(load_block(loader, config_, i, i > 0 ? AttentionInput::Normed : AttentionInput::Plain));
  }
  const auto factors = loader.rope_factors(config_.rope, limits_.context);
  loader.expect_all_read(kIgnoredByEagle2);
  allocate(factors);
}

std::vector<const Weight*> Eagle2Drafter::matrices() const {
  std::vector<const Weight*> result = EagleDrafter::matrices();
  result.insert(result.begin(), fc_.weight.get());
  return result;
}

Tensor Eagle2Drafter::run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) {
  backend_.embed(input_tokens(rows.count), *embedding_, tokens, 1.0f);
  backend_.copy(input_states(rows.count), features);
  return run(rows);
}

Tensor Eagle2Drafter::run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents,
                                  const Rows& rows) {
  backend_.embed(input_tokens(rows.count), *embedding_, tokens, 1.0f);
  backend_.gather_rows(input_states(rows.count), states, parents);
  return run(rows);
}

Tensor Eagle2Drafter::run(const Rows& rows) {
  const Tensor x = stream(rows.count);
  backend_.matmul({input(rows.count)}, std::array{fc_.onto(x)});
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    run_block(backend_, config_, blocks_[i], *scratch_, rope_->view(), cache_layer(i), rows, x);
  }
  return x;
}

}  // namespace frspec
