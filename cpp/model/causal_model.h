// A whole language model: a decoder-only transformer read from GGUF (architecture.cpp has the kinds). It is the
// target, whose words count, or a drafter.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/block.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/recurrent_states.h"
#include "model/rope_options.h"
#include "model/rope_table.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

struct ModelLimits {
  int context = 0;      // tokens of prompt and text together
  int places = 1;       // sequences at once, at most
  int rows = 0;         // rows of one pass, at most
  int logit_rows = 0;   // rows of logits at once, at most
  int tree = 0;         // largest tree, for the cache's slack behind the context
  int depth = 0;        // deepest tree, for positions behind the context
  int spare_pages = 0;  // of the cache, for what ended texts leave
  int states = 0;       // copies of a hybrid's recurrent states, for the same
  int ahead = 0;        // as PageTrie's, for a drafter whose cache lies in the same pages
  KvType kv = KvType::F16;
  RopeOptions rope = {};
  bool head_on_host = false;  // whether the head stays in host memory (WeightSource::on_host)
};

// Layers whose inputs a pass keeps: 0 to layers, where `layers` is the last block's output before the final norm.
struct ModelTaps {
  std::vector<int> single = {};  // each on its own: tap()
  std::vector<int> joined = {};  // side by side: features()
};

class CausalModel {
 public:
  // Reads all weights. Throws InvalidInput for tensors that are missing, misshapen, left over or not finite.
  // `on_bytes` follows the loading (WeightLoader).
  CausalModel(std::shared_ptr<const GgufFile> file, Backend& backend, const ModelLimits& limits,
              const ModelTaps& taps = {}, std::function<void(std::size_t)> on_bytes = nullptr);

  const ModelConfig& config() const { return config_; }
  const GgufFile& file() const { return *file_; }
  const ModelLimits& limits() const { return limits_; }
  KvCache& cache() { return *cache_; }
  RecurrentStates* states() { return states_.get(); }                     // null: the model has none
  const std::shared_ptr<SequencePages>& pages() const { return pages_; }  // where the cache lies

  // Runs `rows.count` rows with the given token ids (device) behind the cache's sequence: rows.sequence must be
  // cache().sequence(), or those of its groups what that is of their places. Their K and V are stored; hidden(), tap()
  // and features() then hold their states. The recurrent states of a hybrid go on with a chain at once, and
  // with a tree when it is committed (commit). `keep_going` is asked between layers; where it says no, the pass is
  // abandoned, and false is returned.
  bool forward(const std::int32_t* tokens, const Rows& rows, const std::function<bool()>& keep_going = {});
  // What the recurrent layers of such a pass do beside their products, on whatever the last pass left: for timing.
  void run_states(const Rows& rows);
  // Keeps the accepted rows of the tree of the last pass, as KvCache has it.
  void commit(std::int32_t* history, const VerdictView& verdict, const PathView& path);
  Tensor hidden(int rows) const { return hidden_.matrix(rows, config_.dim); }  // after the final norm
  Tensor tap(int index, int rows) const {
    return taps_memory_[static_cast<std::size_t>(index)].matrix(rows, config_.dim);
  }
  // What drafters continue: the joined taps, or hidden() where there are none. (rows, feature_dim)
  Tensor features(int rows) const {
    return taps_.joined.empty() ? hidden(rows) : features_.matrix(rows, feature_dim());
  }
  std::int64_t feature_dim() const {
    return std::int64_t{config_.dim} * static_cast<std::int64_t>(std::max<std::size_t>(1, taps_.joined.size()));
  }

  // Logits of the given hidden states: (hidden.rows, vocab), at most limits.logit_rows of them.
  Tensor logits(Tensor hidden);
  // Those of the last call of logits(), as whatever has changed them left them.
  Tensor last_logits(int rows) const { return logits_.matrix(rows, config_.vocab); }

  // Every matrix that all rows of a pass are multiplied with, the head last; and those of the experts.
  std::vector<const Weight*> matrices() const;
  std::vector<const Weight*> expert_matrices() const;

  // For drafters, which share the embedding and take rows of the head.
  const Weight& embedding() const { return *embedding_; }
  const Weight& head() const { return head_ ? *head_ : *embedding_; }
  const WeightSource& head_source() const { return head_source_; }

 private:
  std::shared_ptr<const GgufFile> file_;
  Backend& backend_;
  ModelConfig config_;
  ModelLimits limits_;
  std::unique_ptr<Weight> embedding_;  // (vocab, dim)
  std::unique_ptr<Weight> head_;       // (vocab, dim); null: tied to the embedding
  WeightSource head_source_;
  Buffer final_norm_;  // (dim)
  std::vector<BlockWeights> blocks_;
  std::unique_ptr<LayerRopes> ropes_;
  std::shared_ptr<SequencePages> pages_;
  std::unique_ptr<KvCache> cache_;           // of layers with attention
  std::unique_ptr<RecurrentStates> states_;  // of the others; null: there are none
  std::unique_ptr<BlockScratch> scratch_;
  Buffer stream_;  // (rows, dim) residual stream
  Buffer hidden_;  // (rows, dim)
  Buffer logits_;  // (logit_rows, vocab)
  ModelTaps taps_;
  std::vector<Buffer> taps_memory_;  // (rows, dim) each
  Buffer features_;                  // (rows, feature_dim); empty without joined taps
};

// Throws InvalidInput unless the embedding of the file, of so many rows, has one for each token.
void check_embedding_rows(const GgufFile& file, int rows, const Tokenizer& tokenizer);

}  // namespace frspec
