// EAGLE-1/2 (Li et al., 2401.15077 and 2406.16858): one transformer block that continues the target's own hidden
// states.
//
//   x = fc(concat(embed(token_{i+1}), hidden_i))   at position i, then the block(s), without a final norm;
//   the result goes through the target's head (or a subset of it) and is the hidden state of the next level.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "draft/drafter.h"
#include "draft/tree_grower.h"
#include "gguf/gguf_file.h"
#include "model/causal_model.h"
#include "vocab/draft_head.h"

namespace frspec {

struct Eagle2Limits {
  int context = 0;  // tokens of the text, at most
  int rows = 0;     // rows of one accept() that are processed at once
  KvType kv = KvType::F16;
};

class Eagle2Drafter final : public Drafter {
 public:
  // Reads the drafter and checks that it fits the target: hidden size, vocabulary, every tensor.
  Eagle2Drafter(std::shared_ptr<const GgufFile> file, Backend& backend, const CausalModel& target,
                std::unique_ptr<DraftHead> head, const TreeShape& shape, const Eagle2Limits& limits,
                std::function<void(std::size_t)> on_bytes = nullptr);

  void begin(const TextRules& rules) override;
  void accept(const Committed& committed) override;
  const DraftTree& propose(const std::int32_t* root) override;
  std::vector<const Weight*> matrices() const override;
  int wanted_candidates() const override { return head_->wanted_candidates(); }
  bool reshape(const TreeShape& shape) override {
    grower_.reshape(shape);
    return true;
  }

 private:
  // Runs fc and the blocks over `rows` rows whose tokens and hidden states stand in input(rows); returns the states.
  Tensor forward(const Rows& rows);
  Tensor input_tokens(int rows) const { return input_.matrix(rows, 2 * config_.dim).col_range(0, config_.dim); }
  Tensor input_hidden(int rows) const {
    return input_.matrix(rows, 2 * config_.dim).col_range(config_.dim, config_.dim);
  }

  std::shared_ptr<const GgufFile> file_;
  Backend& backend_;
  TextRules rules_;
  ModelConfig config_;
  Eagle2Limits limits_;
  std::unique_ptr<DraftHead> head_;
  std::unique_ptr<Weight> own_embedding_;  // null: the target's
  const Weight* embedding_;
  Linear fc_;  // 2 dim -> dim
  std::vector<BlockWeights> blocks_;
  TreeGrower grower_;
  std::unique_ptr<RopeTable> rope_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<BlockScratch> scratch_;
  Buffer input_;        // (rows, 2 dim): token embeddings left, hidden states right
  Buffer stream_;       // (rows, dim)
  Buffer last_hidden_;  // (1, dim) the state after the text's last pair
};

}  // namespace frspec
