// Whole models of another vocabulary as drafters (Timor et al., 2502.05202).
//
// Both read the text as their own tokenizer has it (Retokenizer). Under the keyed rule no draft probabilities are
// needed, so trees of translated tokens are as lossless as chains.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "draft/causal_drafter.h"
#include "draft/host_tree.h"
#include "draft/retokenizer.h"

namespace frspec {

// What the two have in common: a model of another vocabulary that follows the target's text.
class TranslatedModel {
 public:
  TranslatedModel(std::unique_ptr<TreeModel> model, std::shared_ptr<const Tokenizer> target,
                  std::shared_ptr<const Tokenizer> drafter);

  void use_place(int place);
  // `alone` as in TextRules.
  void begin(const Reuse& reuse, bool alone);
  void extend(const Extension& extension) {
    at().tokens.insert(at().tokens.end(), extension.tokens.begin(), extension.tokens.end());
  }
  // The text in the drafter's tokens, from where on it is not what the last call has told.
  std::span<const TokenId> fresh();
  // Reads the text up to the root. False where nothing can be drafted: the text ends inside a character.
  bool read_all();
  // As Drafter's.
  std::size_t unread();
  void read(std::size_t most);

  TreeModel& model() { return *model_; }
  const TreeModel& model() const { return *model_; }
  const Tokenizer& target() const { return *target_; }
  const Tokenizer& drafter() const { return *drafter_; }
  const VocabularyAlignment& alignment() const { return alignment_; }
  // The target's tokens so far, the root included.
  const std::vector<TokenId>& text() const { return texts_[place_].tokens; }

 private:
  // What it knows of the text of a place.
  struct Text {
    Retokenizer retokenizer;
    std::vector<TokenId> tokens = {};
    std::size_t pushed = 0;  // tokens that the retokenizer has
    std::size_t kept = 0;    // tokens of the retokenizer that are what the model has read, as far as it has
    std::size_t told = 0;    // likewise, of fresh()
  };

  Text& at() { return texts_[place_]; }
  void push();  // gives the retokenizer all tokens

  std::unique_ptr<TreeModel> model_;
  std::shared_ptr<const Tokenizer> target_, drafter_;
  VocabularyAlignment alignment_;
  std::vector<Text> texts_;  // (places)
  std::size_t place_ = 0;
};

// TLI, token-level intersection (Algorithm 4): the drafter's head has the rows of T and D's intersection only, and its
// tokens are taken for the target's one by one.
class TliDrafter final : public Drafter {
 public:
  TliDrafter(Backend& backend, std::shared_ptr<TranslatedModel> model);

  void use_place(int place) override;
  void begin(const TextRules& rules) override;
  void extend(const Extension& extension) override;
  // What a head that follows the text is told of it.
  void observe(const Extension& extension) { model_->model().head().observe(extension.news()); }
  std::size_t unread() override { return model_->unread(); }
  void read(std::size_t most) override { model_->read(most); }
  const DraftTree& propose(Growth* growth) override;
  int wanted_candidates() const override { return model_->model().head().wanted_candidates(); }
  std::vector<DraftArm> arms() const override { return arms_of(model_->model().head()); }
  void use_arm(int arm) override { model_->model().head().use(arm); }
  std::uint32_t holders(TokenId token) const override { return model_->model().head().holders(token); }
  std::optional<bool> could_offer(TokenId token) const override;
  std::vector<const Weight*> matrices() const override { return model_->model().matrices(); }

 private:
  Backend& backend_;
  std::shared_ptr<TranslatedModel> model_;
  std::vector<TextRules> all_rules_;  // (places)
  std::size_t place_ = 0;
  Buffer to_target_;  // (D) ids of the target's vocabulary
  DraftTree root_only_;
};

// SLEM, string-level exact match (Algorithm 2): what the drafter writes is tokenized again by the target's tokenizer.
// Every path of its tree is, and all of them are merged into one trie of target tokens.
class SlemDrafter final : public Drafter {
 public:
  // The tree has up to `size` nodes and `max_depth` levels below the root. `head`: null: the model's.
  SlemDrafter(Backend& backend, std::shared_ptr<TranslatedModel> model, int size, int max_depth,
              std::unique_ptr<DraftHead> head = nullptr);

  void use_place(int place) override;
  void begin(const TextRules& rules) override;
  void extend(const Extension& extension) override;
  void observe(const Extension& extension);  // as TliDrafter's
  std::size_t unread() override { return model_->unread(); }
  void read(std::size_t most) override { model_->read(most); }
  const DraftTree& propose(Growth* growth) override;
  int wanted_candidates() const override { return head().wanted_candidates(); }
  std::vector<DraftArm> arms() const override { return arms_of(head()); }
  void use_arm(int arm) override { head().use(arm); }
  std::uint32_t holders(TokenId token) const override { return head().holders(token); }
  std::vector<const Weight*> matrices() const override { return model_->model().matrices(); }

 private:
  // Downloads the pool as candidates.
  void read_pool(const CandidatePool& pool);
  void find_context();
  // The trie of what the candidates spell, the best first.
  void translate_all(const Growth* growth);
  std::vector<TokenId> translate_path(std::int32_t candidate) const;
  // The target's tokens after the root for what the drafter's tokens spell.
  std::vector<TokenId> translate(std::span<const TokenId> drafted) const;

  Backend& backend_;
  DraftHead& head() const { return head_ ? *head_ : model_->model().head(); }

  std::shared_ptr<TranslatedModel> model_;
  std::unique_ptr<DraftHead> head_;
  std::vector<bool> are_chains_;  // (places) for rejection sampling
  std::size_t place_ = 0;
  std::size_t size_;
  int max_depth_;
  DraftTree tree_;
  std::string context_;  // the end of the text, for tokenizing what follows it
  HostTree trie_;        // of the target's tokens
  std::vector<DraftCandidate> candidates_;
  std::vector<TokenId> probable_;  // what the target found so, in the drafter's tokens
  std::vector<float> scores_;      // of the trie's nodes: log-probability of the best path that spells them
};

// Both translations of one model, of which one is in use: which of them pays is for the tuner to find out.
class EitherTranslation final : public Drafter {
 public:
  EitherTranslation(std::shared_ptr<TranslatedModel> model, std::unique_ptr<TliDrafter> tli,
                    std::unique_ptr<SlemDrafter> slem);

  void use_place(int place) override;
  void begin(const TextRules& rules) override;
  void extend(const Extension& extension) override;
  std::size_t unread() override { return model_->unread(); }
  void read(std::size_t most) override { model_->read(most); }
  const DraftTree& propose(Growth* growth) override { return used().propose(growth); }
  int wanted_candidates() const override { return std::max(tli_->wanted_candidates(), slem_->wanted_candidates()); }
  std::vector<DraftArm> arms() const override;
  void use_arm(int arm) override;
  std::uint32_t holders(TokenId token) const override;
  std::optional<bool> could_offer(TokenId token) const override { return used().could_offer(token); }
  std::vector<const Weight*> matrices() const override { return tli_->matrices(); }

 private:
  Drafter& used() const { return uses_slem_ ? static_cast<Drafter&>(*slem_) : *tli_; }

  std::shared_ptr<TranslatedModel> model_;
  std::unique_ptr<TliDrafter> tli_;
  std::unique_ptr<SlemDrafter> slem_;
  int tli_arms_;
  bool uses_slem_ = false;
};

}  // namespace frspec
