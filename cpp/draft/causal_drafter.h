// A whole language model as drafter, with the target's vocabulary: it reads the text itself and keeps its own cache.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <vector>

#include "draft/drafter.h"
#include "draft/tree_grower.h"
#include "model/causal_model.h"

namespace frspec {

// A causal model that follows a text and grows trees behind it, in its own token ids.
class TreeModel {
 public:
  static constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();

  // `head` chooses among rows of the model's head.
  TreeModel(Backend& backend, std::unique_ptr<CausalModel> model, std::unique_ptr<DraftHead> head,
            const TreeShape& shape);
  // What the model must have room for, so that it can grow such trees behind `context` tokens.
  static ModelLimits limits(const TreeShape& shape, int context, int batch, KvType kv);

  const CausalModel& model() const { return *model_; }
  std::vector<const Weight*> matrices() const;

  // The place whose text all calls are about from now on.
  void use_place(int place);
  // Another text begins. What was read of the last one is kept for those that begin like it.
  void begin(const Reuse& reuse);
  // Reads a text (at least one token), of which the first `kept` tokens are what they were at the last call: at most
  // `most` tokens of what is unread. Of a text that is longer than the context, only the end is read, anew whenever the
  // context is full.
  void follow(std::span<const TokenId> text, std::size_t kept, std::size_t most = kAll);
  // How many tokens of it are to be read: all that its cache has not, and the last one in any case.
  std::size_t unread(std::span<const TokenId> text, std::size_t kept);
  // How much of the text was read.
  std::size_t length() const { return at().begin + at().length; }
  // The state behind the text, (1, dim); and of further rows behind it, as Rows says (device memory).
  Tensor last_state() const {
    return last_.matrix(static_cast<std::int64_t>(readings_.size()), model_->config().dim)
        .row_range(static_cast<std::int64_t>(place_), 1);
  }
  Tensor extend(const std::int32_t* tokens, int rows, int first_slot, const std::int32_t* depth,
                const std::int32_t* path, int path_stride);
  DraftHead& head() { return *head_; }
  // Grows a tree behind the text, as far as `growth` says (null: of the given shape). Its candidates are the model's
  // ids; without `growth`, what `token_of_id` (device) makes of them.
  TreeGrower& grow(const TextRules& rules, Growth* growth, const std::int32_t* token_of_id = nullptr) {
    return grow(*head_, rules, growth, token_of_id);
  }
  // The same with another head, whose rows are the model's, too.
  TreeGrower& grow(DraftHead& head, const TextRules& rules, Growth* growth, const std::int32_t* token_of_id = nullptr);

 private:
  // What was read of the text of a place.
  struct Reading {
    std::size_t begin = 0;           // of the text is where the cache begins
    std::size_t length = 0;          // tokens in the cache
    std::vector<TokenId> read = {};  // these tokens
    bool is_new = true;              // nothing was looked for in the cache yet
    Reuse reuse = {};
    std::uint64_t used = 0;  // when it was read last
  };

  Reading& at() { return readings_[place_]; }
  const Reading& at() const { return readings_[place_]; }
  void reserve(std::int64_t slots);
  void leave();                   // what is in the cache has ended
  void keep(std::size_t length);  // makes the cache hold the first `length` tokens of what it held
  void read(std::span<const TokenId> tokens);

  Backend& backend_;
  std::unique_ptr<CausalModel> model_;
  std::unique_ptr<DraftHead> head_;
  TreeGrower grower_;
  std::vector<Reading> readings_;  // (places)
  std::size_t place_ = 0;
  std::uint64_t clock_ = 0;
  int last_rows_ = 0;  // of the last pass of read()
  Buffer ids_;         // (rows) tokens of a pass
  Buffer count_;       // (1)
  Buffer last_;        // (places, dim) the state after the last token
};

class CausalDrafter final : public Drafter {
 public:
  explicit CausalDrafter(std::unique_ptr<TreeModel> model)
      : model_(std::move(model)), texts_(static_cast<std::size_t>(model_->model().limits().places)) {}

  void use_place(int place) override;
  void begin(const TextRules& rules) override;
  void extend(const Extension& extension) override;
  std::size_t unread() override { return model_->unread(text().tokens, model_->length()); }
  void read(std::size_t most) override { model_->follow(text().tokens, model_->length(), most); }
  const DraftTree& propose(Growth* growth) override;
  std::vector<const Weight*> matrices() const override { return model_->matrices(); }
  std::optional<bool> could_offer(TokenId token) const override { return model_->head().holds(token); }
  int wanted_candidates() const override { return model_->head().wanted_candidates(); }
  std::vector<DraftArm> arms() const override { return arms_of(model_->head()); }
  void use_arm(int arm) override { model_->head().use(arm); }
  std::uint32_t holders(TokenId token) const override { return model_->head().holders(token); }

 private:
  // What it knows of the text of a place.
  struct Text {
    TextRules rules = {};
    TokenId root = 0;
    std::vector<TokenId> tokens = {};  // all, the next root included; the model has read a beginning of them
  };

  TokenId known(TokenId token) const;
  Text& text() { return texts_[place_]; }

  std::unique_ptr<TreeModel> model_;
  std::vector<Text> texts_;  // (places)
  std::size_t place_ = 0;
};

}  // namespace frspec
