// The EAGLE-3 drafter.
#include "draft/eagle3.h"

#include <array>
#include <string_view>

namespace frspec {
namespace {

// Read by vocab/.
constexpr std::array<std::string_view, 6> kIgnoredByEagle3 = {
    "token_ranks", "token_counts", "sketch_down.weight", "sketch_vocab.weight", "output.weight", "d2t"};

}  // namespace

Eagle3Drafter::Eagle3Drafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
                             std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
                             std::function<void(std::size_t)> on_bytes)
    : EagleDrafter(backend, read_eagle3_config(*file), target, std::move(head), shape, limits),
      options_(read_eagle3_options(*file)) {
  WeightLoader loader(file, backend_, std::move(on_bytes));
  load_embedding(loader);
  const std::int64_t tapped = target.feature_dim();
  fc_ = {loader.matrix("fc.weight", config_.dim, tapped), {}};
  if (options_.fc_norm != Eagle3Options::FcNorm::None) fc_norm_ = loader.vector("enc.output_norm.weight", tapped);
  token_norm_ = loader.vector("blk.0.attn_norm.weight", config_.dim);
  state_norm_ = loader.vector("blk.0.attn_norm_2.weight", config_.dim);
  blocks_.push_back(load_block(loader, config_, 0, AttentionInput::Joined));
  output_norm_ = loader.vector("output_norm.weight", config_.dim);
  const auto factors = loader.rope_factors(config_.rope, limits_.context);
  loader.expect_all_read(kIgnoredByEagle3);

  allocate(factors);
  if (options_.fc_norm == Eagle3Options::FcNorm::PerTap) normed_taps_ = floats(limits_.rows, tapped);
  head_input_ = floats(grower_.pool().branch, config_.dim);
}

Tensor Eagle3Drafter::run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) {
  const Tensor x = stream(rows.count);
  const float* norm = weights(fc_norm_);
  if (normed_taps_) {
    const Tensor normed = normed_taps_.matrix(rows.count, features.cols);
    const std::int64_t dim = config_.target_dim;
    for (std::int64_t column = 0; column < features.cols; column += dim) {
      backend_.rms_norm(normed.col_range(column, dim), features.col_range(column, dim), norm + column, config_.epsilon);
    }
    features = normed;
    norm = nullptr;
  }
  backend_.matmul({features, norm, config_.epsilon}, std::array{fc_.onto(x)});
  backend_.rms_norm(input_states(rows.count), x, weights(state_norm_), config_.epsilon);
  if (options_.norm_before_residual) backend_.copy(x, input_states(rows.count));
  return run(tokens, rows);
}

Tensor Eagle3Drafter::run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents,
                                  const Rows& rows) {
  const Tensor x = stream(rows.count), g = input_states(rows.count);
  backend_.gather_rows(g, states, parents);  // `states` may be the stream itself
  if (options_.norm_output) backend_.rms_norm(g, g, weights(output_norm_), config_.epsilon);
  if (!options_.norm_before_residual) backend_.copy(x, g);
  backend_.rms_norm(g, g, weights(state_norm_), config_.epsilon);
  if (options_.norm_before_residual) backend_.copy(x, g);
  return run(tokens, rows);
}

Tensor Eagle3Drafter::run(const std::int32_t* tokens, const Rows& rows) {
  const Tensor x = stream(rows.count), embedded = input_tokens(rows.count);
  backend_.embed(embedded, *embedding_, tokens, 1.0f);
  backend_.rms_norm(embedded, embedded, weights(token_norm_), config_.epsilon);
  run_block(backend_, config_, blocks_[0], *scratch_, rope_->view(), cache_layer(0), rows, x, {input(rows.count)});
  return x;
}

Tensor Eagle3Drafter::head_input(Tensor states) {
  const Tensor normed = head_input_.matrix(states.rows, config_.dim);
  backend_.rms_norm(normed, states, weights(output_norm_), config_.epsilon);
  return normed;
}

}  // namespace frspec
