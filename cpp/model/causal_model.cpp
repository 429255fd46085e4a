// Loading and running the target model.
#include "model/causal_model.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"

namespace frspec {
namespace {

// Ours, and meant for drafters.
constexpr std::array<std::string_view, 2> kIgnoredByTarget = {"token_ranks", "token_counts"};

ModelConfig read_config(const GgufFile& file, const RopeOptions& rope) {
  ModelConfig config = read_causal_config(file);
  apply(rope, config);
  const GgufTensor& embedding = file.tensor("token_embd.weight");
  if (embedding.shape[1] > (1 << 30)) {
    fail(file.path().string(), ": tensor 'token_embd.weight': found ", embedding.shape[1], " rows, expected at most ",
         1 << 30);
  }
  config.vocab = static_cast<int>(embedding.shape[1]);
  return config;
}

// Nextn blocks are their drafter's, and so are the tokens of a trimmed head that one has.
void leave_nextn(WeightLoader& loader, const ModelConfig& config) {
  bool has_head = false;
  for (int i = config.layers; i < config.layers + config.nextn; ++i) {
    loader.leave(concat("blk.", i, "."));
    has_head = has_head || loader.has(concat("blk.", i, ".nextn.shared_head_head.weight"));
  }
  if (has_head) loader.leave("d2t");
  if (has_head || !loader.has("d2t")) return;
  fail(loader.file().path().string(),
       ": found tensor 'd2t', the tokens of a drafter's trimmed head, in a model's file; ",
       "expected it in the drafter's own, or beside the head of a nextn block, 'blk.N.nextn.shared_head_head.weight'");
}

// Of the trees of several sequences in one pass: what is kept of a row is large where layers are recurrent.
int tree_rows(const ModelLimits& limits) {
  constexpr int kMost = 128;
  return std::max(limits.tree, std::min(limits.places * limits.tree, kMost));
}

}  // namespace

CausalModel::CausalModel(std::shared_ptr<const GgufFile> file, Backend& backend, const ModelLimits& limits,
                         const ModelTaps& taps, std::function<void(std::size_t)> on_bytes)
    : file_(std::move(file)),
      backend_(backend),
      config_(read_config(*file_, limits.rope)),
      limits_(limits),
      taps_(taps) {
  WeightLoader loader(file_, backend_, std::move(on_bytes));
  const bool tied = !loader.has("output.weight");
  if (!tied) embedding_ = loader.table("token_embd.weight", config_.vocab, config_.dim);
  final_norm_ = loader.vector("output_norm.weight", config_.dim);
  head_source_ = loader.source(tied ? "token_embd.weight" : "output.weight", config_.vocab, config_.dim);
  head_source_.logit_rule = config_.logit_rule;
  WeightSource whole_head = head_source_;
  whole_head.on_host = limits_.head_on_host;
  (tied ? embedding_ : head_) = loader.load(whole_head);
  for (int i = 0; i < config_.layers; ++i) blocks_.push_back(load_block(loader, config_, i));
  leave_nextn(loader, config_);
  const auto factors = loader.rope_factors(config_.rope, limits_.context);
  loader.expect_all_read(kIgnoredByTarget);

  // Only now: the shapes of the tensors have vouched for the sizes that the metadata states.
  pages_ = std::make_shared<SequencePages>(backend_, std::int64_t{limits_.context} + limits_.tree, limits_.spare_pages,
                                           limits_.ahead, limits_.places);
  const KvShape shape{limits_.kv, config_.kv_heads, config_.head_dim, pages_->slots()};
  cache_ = std::make_unique<KvCache>(backend_, config_.attention_layers(), shape, pages_);
  if (config_.recurrent_layers() > 0) {
    states_ = std::make_unique<RecurrentStates>(backend_, config_, limits_.places, tree_rows(limits_), limits_.states);
  }
  scratch_ = std::make_unique<BlockScratch>(backend_, config_, limits_.rows);
  ropes_ = std::make_unique<LayerRopes>(backend_, config_, factors, limits_.context + limits_.depth + 1);
  const auto bytes = [](std::int64_t rows, std::int64_t cols) {
    return sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
  };
  stream_ = backend_.allocate(bytes(limits_.rows, config_.dim));
  hidden_ = backend_.allocate(bytes(limits_.rows, config_.dim));
  logits_ = backend_.allocate(bytes(limits_.logit_rows, config_.vocab));
  for (const std::vector<int>* layers : {&taps_.single, &taps_.joined}) {
    for (const int layer : *layers) {
      if (layer < 0 || layer > config_.layers) {
        fail("hidden-state tap: found layer ", layer, ", expected 0 to ", config_.layers);
      }
    }
  }
  for (std::size_t t = 0; t < taps_.single.size(); ++t) {
    taps_memory_.push_back(backend_.allocate(bytes(limits_.rows, config_.dim)));
  }
  if (!taps_.joined.empty()) features_ = backend_.allocate(bytes(limits_.rows, feature_dim()));
}

bool CausalModel::forward(const std::int32_t* tokens, const Rows& rows, const std::function<bool()>& keep_going) {
  if (rows.count > limits_.rows) {
    throw Error(concat("a pass of ", rows.count, " rows: expected at most ", limits_.rows));
  }
  const auto stops = [&] { return keep_going && !keep_going(); };
  if (stops()) return false;
  const Tensor x = stream_.matrix(rows.count, config_.dim);
  const auto keep_taps = [&](int layer) {
    for (std::size_t t = 0; t < taps_.single.size(); ++t) {
      if (taps_.single[t] == layer) backend_.copy(tap(static_cast<int>(t), rows.count), x);
    }
    for (std::size_t t = 0; t < taps_.joined.size(); ++t) {
      const auto column = static_cast<std::int64_t>(t) * config_.dim;
      if (taps_.joined[t] == layer) backend_.copy(features(rows.count).col_range(column, config_.dim), x);
    }
  };
  if (states_) states_->begin_pass(rows);
  backend_.embed(x, *embedding_, tokens, config_.embedding_scale);
  int attention = 0, recurrent = 0;  // layers so far
  for (int i = 0; i < config_.layers; ++i) {
    if (stops()) return false;
    keep_taps(i);
    const BlockWeights& block = blocks_[static_cast<std::size_t>(i)];
    if (block.delta) {
      run_delta_block(backend_, config_, block, *scratch_, states_->layer(recurrent++), rows, x);
    } else {
      run_block(backend_, config_, block, *scratch_, ropes_->of(i), cache_->layer(attention++), rows, x);
    }
  }
  keep_taps(config_.layers);
  backend_.rms_norm(hidden(rows.count), x, final_norm_.as<float>(), config_.epsilon);
  return true;
}

void CausalModel::run_states(const Rows& rows) {
  if (!states_) return;
  states_->begin_pass(rows);
  int recurrent = 0;
  for (const BlockWeights& block : blocks_) {
    if (block.delta) run_delta_rule(backend_, config_, block, *scratch_, states_->layer(recurrent++), rows);
  }
}

void CausalModel::commit(std::int32_t* history, const VerdictView& verdict, const PathView& path) {
  if (states_) states_->commit(cache_->sequence().state, verdict);
  cache_->commit(history, verdict, path);
}

std::vector<const Weight*> CausalModel::matrices() const {
  std::vector<const Weight*> result;
  for (const BlockWeights& block : blocks_) for_each_matrix(block, [&](const Weight& w) { result.push_back(&w); });
  result.push_back(&head());
  return result;
}

std::vector<const Weight*> CausalModel::expert_matrices() const {
  std::vector<const Weight*> result;
  for (const BlockWeights& block : blocks_) {
    if (block.router.weight == nullptr) continue;
    for (const Linear* linear : {&block.gate, &block.up, &block.down}) result.push_back(linear->weight.get());
  }
  return result;
}

Tensor CausalModel::logits(Tensor hidden) {
  const Tensor out = logits_.matrix(hidden.rows, config_.vocab);
  backend_.matmul({hidden}, std::array{Projection{out, &head()}});
  backend_.apply(head().logit_rule(), out);
  return out;
}

void check_embedding_rows(const GgufFile& file, int rows, const Tokenizer& tokenizer) {
  if (rows == tokenizer.size()) return;
  fail(file.path().string(), ": tensor 'token_embd.weight': found ", rows, " rows, expected one per token, ",
       tokenizer.size());
}

}  // namespace frspec
