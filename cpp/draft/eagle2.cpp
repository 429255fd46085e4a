#include "draft/eagle2.h"

#include <array>
#include <string_view>

namespace frspec {
namespace {

constexpr std::array<std::string_view, 4> kIgnoredByEagle2 = {"token_ranks", "token_counts", "sketch_down.weight",
                                                              "sketch_vocab.weight"};  // read by vocab/

}  // namespace

EagleWeights read_eagle2_weights(WeightLoader& loader, const ModelConfig& config, int context) {
  EagleWeights weights;
  const std::int64_t dim = config.dim;
  weights.embedding = find_embedding(loader, config, "token_embd.weight");
  weights.fc = {loader.matrix("fc.weight", dim, 2 * dim), loader.find_vector("fc.bias", dim)};
  for (int i = 0; i < config.layers; ++i) {
    weights.blocks.push_back(load_block(loader, config, i, i > 0 ? AttentionInput::Normed : AttentionInput::Plain));
  }
  weights.rope_factors = loader.rope_factors(config.rope, context);
  loader.expect_all_read(kIgnoredByEagle2);
  return weights;
}

Eagle2Drafter::Eagle2Drafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
                             std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
                             std::function<void(std::size_t)> on_bytes)
    : EagleDrafter(backend, read_eagle2_config(*file), target, std::move(head), shape, limits) {
  expect_of_target(*file, "target_hidden_size", config_.target_dim, target.config().dim, "hidden size");
  expect_of_target(*file, "embedding_length", config_.dim, target.config().dim, "hidden size");
  expect_of_target(*file, "vocab_size", config_.vocab, target.config().vocab, "vocabulary size");
  WeightLoader loader(file, backend_, std::move(on_bytes));
  allocate(read_eagle2_weights(loader, config_, limits_.context));
}

std::vector<const Weight*> Eagle2Drafter::matrices() const {
  std::vector<const Weight*> result = EagleDrafter::matrices();
  result.insert(result.begin(), weights_.fc.weight.get());
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
  backend_.matmul({input(rows.count)}, std::array{weights_.fc.onto(x)});
  for (std::size_t i = 0; i < weights_.blocks.size(); ++i) {
    run_block(backend_, config_, weights_.blocks[i], *scratch_, rope_->view(), cache_layer(i), rows, x);
  }
  return x;
}

}  // namespace frspec
