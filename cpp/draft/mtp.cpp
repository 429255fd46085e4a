// The drafter of a nextn block.
#include "draft/mtp.h"

#include <array>
#include <string_view>

#include "base/error.h"

namespace frspec {
namespace {

// Read by vocab/, or the target's own once more.
constexpr std::array<std::string_view, 8> kIgnoredByMtp = {
    "token_ranks",       "token_counts",       "sketch_down.weight", "sketch_vocab.weight",
    "token_embd.weight", "output_norm.weight", "output.weight",      "d2t"};

bool has_trunk(const GgufFile& file) { return file.find_tensor("blk.0.attn_norm.weight") != nullptr; }

}  // namespace

std::string mtp_tensor(const ModelConfig& config, std::string_view name) {
  return concat("blk.", config.mtp_block, ".", name);
}

bool is_mtp(const GgufFile& file) {
  const std::string_view architecture = file.get_string("general.architecture");
  if (find_architecture(architecture) == nullptr) return false;
  if (file.find_int(concat(architecture, ".nextn_predict_layers")).value_or(0) < 1) return false;
  const ModelConfig config = read_causal_config(file);
  return !has_trunk(file) || config.recurrent_layers() > 0 ||
         file.find_tensor(concat("blk.", config.layers, ".nextn.eh_proj.weight")) != nullptr;
}

bool is_mtp_alone(const GgufFile& file) { return is_mtp(file) && !has_trunk(file); }

EagleWeights read_mtp_weights(WeightLoader& loader, const ModelConfig& config, int context) {
  EagleWeights weights;
  const std::int64_t dim = config.dim;
  const auto norm = [&](std::string_view name) { return loader.vector(mtp_tensor(config, name), dim); };
  weights.fc = {loader.matrix(mtp_tensor(config, "nextn.eh_proj.weight"), dim, 2 * dim), {}};
  weights.token_norm = norm("nextn.enorm.weight");
  weights.state_norm = norm("nextn.hnorm.weight");
  const bool has_norm = loader.has(mtp_tensor(config, "nextn.shared_head_norm.weight"));
  weights.output_norm = has_norm ? norm("nextn.shared_head_norm.weight") : loader.vector("output_norm.weight", dim);
  weights.embedding = find_embedding(loader, config, mtp_tensor(config, "nextn.embed_tokens.weight"));
  weights.blocks.push_back(load_block(loader, config, config.mtp_block));
  weights.rope_factors = loader.rope_factors(config.rope, context);
  const std::string own_head = mtp_tensor(config, "nextn.shared_head_head.weight");
  if (has_trunk(loader.file())) {
    loader.expect_block_read(config.mtp_block, own_head);
  } else {
    std::vector<std::string_view> ignored(kIgnoredByMtp.begin(), kIgnoredByMtp.end());
    ignored.push_back(own_head);
    loader.expect_all_read(ignored);
  }
  return weights;
}

MtpDrafter::MtpDrafter(const std::shared_ptr<const GgufFile>& file, Backend& backend, const CausalModel& target,
                       std::unique_ptr<DraftHead> head, const TreeShape& shape, const EagleLimits& limits,
                       std::function<void(std::size_t)> on_bytes)
    : EagleDrafter(backend, read_mtp_config(*file), target, std::move(head), shape, limits) {
  config_.vocab = target.config().vocab;
  WeightLoader loader(file, backend_, std::move(on_bytes));
  allocate(read_mtp_weights(loader, config_, limits_.context));
}

std::vector<const Weight*> MtpDrafter::matrices() const {
  std::vector<const Weight*> result = EagleDrafter::matrices();
  result.insert(result.begin(), weights_.fc.weight.get());
  return result;
}

Tensor MtpDrafter::run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) {
  backend_.copy(input_states(rows.count), features);
  return run(tokens, rows);
}

Tensor MtpDrafter::run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents,
                               const Rows& rows) {
  backend_.gather_rows(input_states(rows.count), states, parents);  // `states` may be the stream itself
  return run(tokens, rows);
}

Tensor MtpDrafter::run(const std::int32_t* tokens, const Rows& rows) {
  const Tensor x = stream(rows.count), embedded = input_tokens(rows.count), states = input_states(rows.count);
  backend_.embed(embedded, *embedding_, tokens, config_.embedding_scale);
  backend_.rms_norm(embedded, embedded, weights_.token_norm.as<float>(), config_.epsilon);
  backend_.rms_norm(states, states, weights_.state_norm.as<float>(), config_.epsilon);
  backend_.matmul({input(rows.count)}, std::array{weights_.fc.onto(x)});
  run_block(backend_, config_, weights_.blocks[0], *scratch_, rope_->view(), cache_layer(0), rows, x);
  backend_.rms_norm(x, x, weights_.output_norm.as<float>(), config_.epsilon);
  return x;
}

}  // namespace frspec
