#include "draft/eagle3.h"

#include <array>
#include <string_view>

namespace frspec {
namespace {

// Read by vocab/.
constexpr std::array<std::string_view, 6> kIgnoredByEagle3 = {
    "token_ranks", "token_counts", "sketch_down.weight", "sketch_vocab.weight", "output.weight", "d2t"};

}  // namespace

EagleWeights read_eagle3_weights(WeightLoader& loader, const ModelConfig& config, const Eagle3Options& options,
                                 int context) {
  EagleWeights weights;
  const std::int64_t dim = config.dim;
  const std::int64_t tapped = static_cast<std::int64_t>(options.target_layers.size()) * config.target_dim;
  weights.embedding = find_embedding(loader, config, "token_embd.weight");
  weights.fc = {loader.matrix("fc.weight", dim, tapped), {}};
  if (options.fc_norm != Eagle3Options::FcNorm::None) weights.fc_norm = loader.vector("enc.output_norm.weight", tapped);
  weights.token_norm = loader.vector("blk.0.attn_norm.weight", dim);
  weights.state_norm = loader.vector("blk.0.attn_norm_2.weight", dim);
  weights.blocks.push_back(load_block(loader, config, 0, AttentionInput::Joined));
  weights.output_norm = loader.vector("output_norm.weight", dim);
  weights.rope_factors = loader.rope_factors(config.rope, context);
  loader.expect_all_read(kIgnoredByEagle3);
  return weights;
}

Eagle3Drafter::Eagle3Drafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
                             std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
                             std::function<void(std::size_t)> on_bytes)
    : EagleDrafter(backend, read_eagle3_config(*file), target, std::move(head), shape, limits),
      options_(read_eagle3_options(*file)) {
  WeightLoader loader(file, backend_, std::move(on_bytes));
  allocate(read_eagle3_weights(loader, config_, options_, limits_.context));
  if (options_.fc_norm == Eagle3Options::FcNorm::PerTap) normed_taps_ = floats(limits_.rows, target.feature_dim());
  head_input_ = floats(grower_.pool().branch, config_.dim);
}

Tensor Eagle3Drafter::run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) {
  const Tensor x = stream(rows.count);
  const float* norm = values(weights_.fc_norm);
  if (normed_taps_) {
    const Tensor normed = normed_taps_.matrix(rows.count, features.cols);
    const std::int64_t dim = config_.target_dim;
    for (std::int64_t column = 0; column < features.cols; column += dim) {
      backend_.rms_norm(normed.col_range(column, dim), features.col_range(column, dim), norm + column, config_.epsilon);
    }
    features = normed;
    norm = nullptr;
  }
  backend_.matmul({features, norm, config_.epsilon}, std::array{weights_.fc.onto(x)});
  backend_.rms_norm(input_states(rows.count), x, values(weights_.state_norm), config_.epsilon);
  if (options_.norm_before_residual) backend_.copy(x, input_states(rows.count));
  return run(tokens, rows);
}

Tensor Eagle3Drafter::run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents,
                                  const Rows& rows) {
  const Tensor x = stream(rows.count), g = input_states(rows.count);
  backend_.gather_rows(g, states, parents);  // `states` may be the stream itself
  if (options_.norm_output) backend_.rms_norm(g, g, values(weights_.output_norm), config_.epsilon);
  if (!options_.norm_before_residual) backend_.copy(x, g);
  backend_.rms_norm(g, g, values(weights_.state_norm), config_.epsilon);
  if (options_.norm_before_residual) backend_.copy(x, g);
  return run(tokens, rows);
}

Tensor Eagle3Drafter::run(const std::int32_t* tokens, const Rows& rows) {
  const Tensor x = stream(rows.count), embedded = input_tokens(rows.count);
  backend_.embed(embedded, *embedding_, tokens, 1.0f);
  backend_.rms_norm(embedded, embedded, values(weights_.token_norm), config_.epsilon);
  run_block(backend_, config_, weights_.blocks[0], *scratch_, rope_->view(), cache_layer(0), rows, x,
            {input(rows.count)});
  return x;
}

Tensor Eagle3Drafter::head_input(Tensor states) {
  const Tensor normed = head_input_.matrix(states.rows, config_.dim);
  backend_.rms_norm(normed, states, values(weights_.output_norm), config_.epsilon);
  return normed;
}

}  // namespace frspec
