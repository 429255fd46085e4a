// What EAGLE's drafters have in common: transformer blocks that continue the target's own states. Each row is a pair, a
// state and the token that follows it. Of the text the states are the target's; of drafted tokens, which the target has
// not seen, the drafter's own stand for them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "draft/drafter.h"
#include "draft/tree_grower.h"
#include "gguf/gguf_file.h"
#include "model/causal_model.h"
#include "vocab/draft_head.h"

namespace frspec {

struct EagleLimits {
  int context = 0;  // tokens of the text, at most
  int rows = 0;     // rows of one accept() that are processed at once
  KvType kv = KvType::F16;
  RopeOptions rope = {};
};

// What a drafter's file holds. What its kind does not have is empty.
struct EagleWeights {
  std::unique_ptr<Weight> embedding;           // null: the target's, which must have the drafter's width then
  Linear fc;                                   // what the network reads -> dim
  Buffer fc_norm;                              // of what fc reads
  Buffer token_norm, state_norm, output_norm;  // (dim)
  std::vector<BlockWeights> blocks;
  std::vector<float> rope_factors;
};

// A drafter's own embedding, where its file has one.
std::unique_ptr<Weight> find_embedding(WeightLoader& loader, const ModelConfig& config, const std::string& name);

class EagleDrafter : public Drafter {
 public:
  // Slots that a tree of that shape takes behind the sequence.
  static int slots_behind(const TreeShape& shape) { return shape.levels() * shape.branch; }

  void use_place(int place) final { place_ = static_cast<std::size_t>(place); }
  void begin(const TextRules& rules) final;
  void extend(const Extension& extension) final {
    text().root = extension.tokens.back();
    head_->observe(extension.news());
  }
  bool reads_states() const final { return true; }
  void accept(const Committed& committed) final;
  // The state behind the last pair is that of the pairs that accept() tells of next: at least one does follow.
  void resume(std::int32_t count) final { cache_->set_length(count); }
  const DraftTree& propose(Growth* growth) final;
  std::vector<const Weight*> matrices() const override;
  std::optional<bool> could_offer(TokenId token) const final { return head_->holds(token); }
  int wanted_candidates() const final { return head_->wanted_candidates(); }
  // A head that follows the text is told of candidates.
  bool follows_device() const final { return head_->follows_device(); }
  std::vector<DraftArm> arms() const final { return arms_of(*head_); }
  void use_arm(int arm) final { head_->use(arm); }
  std::uint32_t holders(TokenId token) const final { return head_->holders(token); }

 protected:
  EagleDrafter(Backend& backend, const ModelConfig& config, const CausalModel& target, std::unique_ptr<DraftHead> head,
               const TreeShape& shape, const EagleLimits& limits);
  // Takes the weights, and room for what is made with them. Only once the shapes of the tensors have vouched for the
  // sizes that the metadata states.
  void allocate(EagleWeights weights);

  // Runs the pairs of the text: `features` are the target's. Returns the states, (rows.count, dim).
  virtual Tensor run_text(const std::int32_t* tokens, Tensor features, const Rows& rows) = 0;
  // Runs pairs of drafted tokens, each behind the row `parents[r]` of the states that the last run gave.
  virtual Tensor run_drafted(const std::int32_t* tokens, Tensor states, const std::int32_t* parents,
                             const Rows& rows) = 0;
  // What the head reads of up to `branch` states.
  virtual Tensor head_input(Tensor states) { return states; }

  Buffer floats(std::int64_t rows, std::int64_t cols) const;
  Tensor stream(int rows) const { return stream_.matrix(rows, config_.dim); }
  // Halves of what the network reads: token embeddings left, states right.
  Tensor input(int rows) const { return input_.matrix(rows, 2 * std::int64_t{config_.dim}); }
  Tensor input_tokens(int rows) const { return input(rows).col_range(0, config_.dim); }
  Tensor input_states(int rows) const { return input(rows).col_range(config_.dim, config_.dim); }
  KvLayer cache_layer(std::size_t block) const { return cache_->layer(static_cast<int>(block)); }

  Backend& backend_;
  ModelConfig config_;
  EagleLimits limits_;
  TreeGrower grower_;
  const Weight* embedding_;
  EagleWeights weights_;
  std::unique_ptr<RopeTable> rope_;
  std::unique_ptr<BlockScratch> scratch_;

 private:
  // What it knows of the sequence of a place.
  struct Text {
    TextRules rules = {};
    TokenId root = 0;
  };

  Text& text() { return texts_[place_]; }
  // The state behind its last pair.
  Tensor last_state() const {
    return last_states_.matrix(static_cast<std::int64_t>(texts_.size()), config_.dim)
        .row_range(static_cast<std::int64_t>(place_), 1);
  }

  std::vector<Text> texts_;  // (places)
  std::size_t place_ = 0;
  std::unique_ptr<DraftHead> head_;
  std::shared_ptr<SequencePages> pages_;  // the target's: slot i holds what was made of its slot i, too
  std::unique_ptr<KvCache> cache_;
  Buffer input_;        // (rows, 2 dim)
  Buffer stream_;       // (rows, dim)
  Buffer last_states_;  // (places, dim)
};

// Throws InvalidInput unless a key of a drafter has the value that its target asks for.
void expect_of_target(const GgufFile& file, std::string_view key, int found, int expected, std::string_view what);

}  // namespace frspec
