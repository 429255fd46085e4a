// The head policies: which rows of the LM head a drafter looks at. All are fillings of one interface: hidden rows in,
// the best tokens (ids of the full vocabulary, log-probabilities) out. Nobody else knows that a subset exists.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "tokenizer/tokenizer.h"
#include "vocab/adaptive_ranks.h"
#include "vocab/draft_vocabulary.h"

namespace frspec {

// The matrix whose rows the policies choose from, and the tokens they stand for.
struct HeadRows {
  WeightSource source;             // (rows, dim)
  const Weight* weight = nullptr;  // all of them, loaded; null: nobody has
  DraftVocabulary vocabulary;      // the tokens there are rows for; empty: all, a row's number is its token
  std::vector<TokenId> ids;        // (rows) what a head calls the token of each row; empty: by its number
  int padding = 0;                 // rows behind the last token, which nobody has trained: no policy chooses them

  static HeadRows whole(WeightSource source, const Weight* weight) { return {std::move(source), weight, {}, {}}; }
  // A head of few rows, made (learned) for these tokens.
  static HeadRows reduced(WeightSource source, DraftVocabulary vocabulary);
  // Of a head for another vocabulary the rows of tokens that are the target's, too. Heads that choose among them name
  // tokens as that vocabulary does.
  static HeadRows shared(WeightSource source, const Weight* weight, DraftVocabulary vocabulary);

  // The same rows, of which those behind the last token of their vocabulary are padding.
  HeadRows padded(const Tokenizer& tokenizer) const;

  int count() const { return static_cast<int>(source.rows) - padding; }  // rows to choose from, the first ones
  bool is_part() const { return !vocabulary.rows.empty(); }
  bool is_learned() const { return !ids.empty(); }
  // The row of a token; nothing where it has none.
  std::optional<std::int32_t> row_of(TokenId token) const;
  // The rows of those of the given tokens that have one, in their order.
  std::vector<std::int32_t> rows_of(std::span<const TokenId> tokens) const;
  // The given rows, ascending in what heads call their tokens.
  std::vector<std::int32_t> in_order(std::vector<std::int32_t> rows) const;
  TokenId token(std::int32_t row) const { return ids.empty() ? row : ids[static_cast<std::size_t>(row)]; }
};

// What a text tells a head that follows it.
struct TextNews {
  std::span<const TokenId> tokens;      // that the text gained
  std::span<const TokenId> candidates;  // that the target found probable, the likeliest last
};

class DraftHead;

// One of several policies that a head can follow.
struct HeadChoice {
  std::string name;
  DraftHead* head = nullptr;
};

class DraftHead {
 public:
  virtual ~DraftHead() = default;
  virtual int size() const = 0;                             // rows there are to choose from; k may not exceed it
  virtual std::vector<const Weight*> matrices() const = 0;  // that all their rows are multiplied with
  // The best tokens after each row of `hidden` (rows, dim). With noise: the best under it. Without `best.log_sums` the
  // scores are all there is to know.
  virtual void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) = 0;

  // Whether a token may be among the best now. Nothing: a head that cannot say, because its rows are chosen anew for
  // each state.
  virtual std::optional<bool> holds(TokenId) const { return std::nullopt; }
  // A new text begins: what the last one said is forgotten, so that a text depends on nothing else.
  virtual void begin() {}
  virtual void observe(const TextNews&) {}
  virtual int wanted_candidates() const { return 0; }  // of the target, after each token
  // The policies that it can choose among, the one that misses least first (none: it has but one), and the one that it
  // follows from now on. holders: those that hold a token now, or cannot say, a bit for each.
  virtual std::vector<HeadChoice> choices() const { return {}; }
  virtual void use(int /*choice*/) {}
  virtual std::uint32_t holders(TokenId) const { return ~0u; }
  // Whether observe() may come some steps late: what it offers does not depend on it.
  virtual bool follows_device() const { return wanted_candidates() == 0; }
};

// All rows there are to choose from.
std::unique_ptr<DraftHead> make_full_head(Backend& backend, const HeadRows& rows);
// The given rows, in ascending order of what the head calls their tokens, packed once: FR-Spec's subset, 2502.14856,
// section 3.2. With `adaptive` (null: they stay), made for these rows, some are replaced when a text begins.
std::unique_ptr<DraftHead> make_listed_head(Backend& backend, const HeadRows& rows,
                                            std::span<const std::int32_t> chosen,
                                            std::unique_ptr<AdaptiveRows> adaptive = nullptr);
// Heads of the first `sizes` of the given rows, the most frequent first, which share one packed weight.
// `adaptive`: likewise, made for these rows and sizes.
std::vector<std::unique_ptr<DraftHead>> make_ranked_heads(Backend& backend, const HeadRows& rows,
                                                          std::span<const std::int32_t> ranked,
                                                          std::span<const int> sizes,
                                                          std::unique_ptr<AdaptiveRows> adaptive = nullptr);
// What both choose from together. The rest knows only one.
std::unique_ptr<DraftHead> make_united_head(Backend& backend, std::unique_ptr<DraftHead> one,
                                            std::unique_ptr<DraftHead> other, int rows, int k);

}  // namespace frspec
