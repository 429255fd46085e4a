// Head policies whose rows do not follow a text, and unions.
#include "vocab/draft_head.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {
namespace {

const DraftNoise* pointer_to(const std::optional<DraftNoise>& noise) { return noise ? &*noise : nullptr; }

Buffer upload_ids(Backend& backend, std::span<const TokenId> ids) {
  Buffer memory = backend.allocate(ids.size_bytes());
  backend.upload(memory.as<void>(), ids.data(), ids.size_bytes());
  return memory;
}

class FullHead final : public DraftHead {
 public:
  FullHead(Backend& backend, const HeadRows& rows) : backend_(backend), weight_(rows.weight), size_(rows.count()) {
    if (weight_ != nullptr) return;
    own_ = backend.load(rows.source);
    weight_ = own_.get();
  }

  int size() const override { return size_; }
  std::vector<const Weight*> matrices() const override { return {weight_}; }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    backend_.head_top_k(best, hidden, {.weight = weight_, .count = size_}, pointer_to(noise));
  }
  std::optional<bool> holds(TokenId token) const override { return token >= 0 && token < size(); }

 private:
  Backend& backend_;
  const Weight* weight_;  // (size and padding, dim)
  int size_;
  std::unique_ptr<Weight> own_;  // where nobody else has loaded them
};

// Some rows, packed, and their tokens.
class ListedRows {
 public:
  ListedRows(Backend& backend, const HeadRows& rows, std::span<const std::int32_t> chosen,
             std::unique_ptr<AdaptiveRows> adaptive)
      : backend_(backend),
        rows_(rows),
        weight_(backend.load_rows(rows.source, chosen)),
        adaptive_(std::move(adaptive)) {
    for (const std::int32_t row : chosen) tokens_.push_back(rows.token(row));
    ids_ = upload_ids(backend, tokens_);
  }

  const Weight* weight() const { return weight_.get(); }
  const std::int32_t* ids() const { return ids_.as<std::int32_t>(); }
  const std::vector<TokenId>& tokens() const { return tokens_; }
  bool adapt() const { return adaptive_ != nullptr; }
  TokenId token(std::int32_t row) const { return rows_.token(row); }

  // A new text begins. What has changed.
  std::span<const AdaptiveRows::Change> begin() {
    if (!adaptive_) return {};
    const std::span<const AdaptiveRows::Change> changes = adaptive_->update();
    if (changes.empty()) return {};
    places_.clear();
    new_rows_.clear();
    for (const AdaptiveRows::Change& change : changes) {
      places_.push_back(change.place);
      new_rows_.push_back(change.row);
      tokens_[static_cast<std::size_t>(change.place)] = token(change.row);
    }
    backend_.replace_rows(*weight_, rows_.source, places_, new_rows_);
    backend_.upload(ids_.as<void>(), tokens_.data(), tokens_.size() * sizeof(TokenId));
    return changes;
  }

 private:
  Backend& backend_;
  HeadRows rows_;
  std::unique_ptr<Weight> weight_;          // (size, dim)
  std::vector<TokenId> tokens_;             // (size)
  Buffer ids_;                              // (size) the same
  std::unique_ptr<AdaptiveRows> adaptive_;  // null: the rows stay
  std::vector<std::int32_t> places_, new_rows_;
};

class ListedHead final : public DraftHead {
 public:
  ListedHead(Backend& backend, ListedRows rows) : backend_(backend), rows_(std::move(rows)) {}

  int size() const override { return static_cast<int>(rows_.weight()->rows()); }
  std::vector<const Weight*> matrices() const override { return {rows_.weight()}; }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    backend_.head_top_k(best, hidden, {.weight = rows_.weight(), .ids = rows_.ids()}, pointer_to(noise));
  }
  std::optional<bool> holds(TokenId token) const override {
    const std::vector<TokenId>& tokens = rows_.tokens();
    // Ascending, until one takes the place of another.
    return rows_.adapt() ? std::find(tokens.begin(), tokens.end(), token) != tokens.end()
                         : std::binary_search(tokens.begin(), tokens.end(), token);
  }
  void begin() override { rows_.begin(); }

 private:
  Backend& backend_;
  ListedRows rows_;
};

// The rows that ranked heads of several sizes share, the most frequent token's first.
struct SharedRows {
  ListedRows rows;
  std::vector<std::int32_t> places;  // by token; beyond all places where it has none

  void begin() {
    const auto changes = rows.begin();
    for (const auto& change : changes) places[static_cast<std::size_t>(rows.token(change.old_row))] = most();
    for (const auto& change : changes) places[static_cast<std::size_t>(rows.token(change.row))] = change.place;
  }
  std::int32_t most() const { return static_cast<std::int32_t>(rows.tokens().size()); }
};

class RankedHead final : public DraftHead {
 public:
  RankedHead(Backend& backend, std::shared_ptr<SharedRows> shared, int size, bool first)
      : backend_(backend), shared_(std::move(shared)), size_(size), first_(first) {}

  int size() const override { return size_; }
  std::vector<const Weight*> matrices() const override { return {shared_->rows.weight()}; }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    backend_.head_top_k(best, hidden, {.weight = shared_->rows.weight(), .ids = shared_->rows.ids(), .count = size_},
                        pointer_to(noise));
  }
  std::optional<bool> holds(TokenId token) const override {
    const auto at = static_cast<std::size_t>(token);
    return at < shared_->places.size() && shared_->places[at] < size_;
  }
  // One of those that share the rows changes them.
  void begin() override {
    if (first_) shared_->begin();
  }

 private:
  Backend& backend_;
  std::shared_ptr<SharedRows> shared_;
  int size_;
  bool first_;
};

class UnitedHead final : public DraftHead {
 public:
  UnitedHead(Backend& backend, std::unique_ptr<DraftHead> one, std::unique_ptr<DraftHead> other, int rows, int k)
      : backend_(backend), one_(std::move(one)), other_(std::move(other)), rows_(rows), k_(k) {
    const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(k);
    ids_ = backend.allocate(sizeof(std::int32_t) * count);
    scores_ = backend.allocate(sizeof(float) * count);
    sums_ = backend.allocate(2 * sizeof(float) * static_cast<std::size_t>(rows));
  }

  int size() const override { return std::min(one_->size(), other_->size()); }
  std::vector<const Weight*> matrices() const override {
    std::vector<const Weight*> all = one_->matrices();
    for (const Weight* weight : other_->matrices()) all.push_back(weight);
    return all;
  }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    const auto rows = static_cast<int>(hidden.rows);
    if (rows > rows_ || best.k > k_) {
      throw Error(concat("united head: found ", rows, " rows and the best ", best.k, " of each, expected at most ",
                         rows_, " and ", k_));
    }
    BestTokens mine = best;
    if (mine.log_sums == nullptr) mine.log_sums = sums_.as<float>() + rows_;
    const BestTokens theirs{ids_.as<std::int32_t>(), scores_.as<float>(), sums_.as<float>(), best.k};
    one_->top_k(hidden, mine, noise);
    other_->top_k(hidden, theirs, noise);
    backend_.merge_top_k(mine, theirs, rows, noise.has_value());
  }
  std::optional<bool> holds(TokenId token) const override {
    const std::optional<bool> one = one_->holds(token), other = other_->holds(token);
    if (one.value_or(false) || other.value_or(false)) return true;
    if (!one || !other) return std::nullopt;
    return false;
  }
  void begin() override {
    one_->begin();
    other_->begin();
  }
  bool follows_device() const override { return one_->follows_device() && other_->follows_device(); }
  void observe(const TextNews& news) override {
    one_->observe(news);
    other_->observe(news);
  }
  int wanted_candidates() const override { return std::max(one_->wanted_candidates(), other_->wanted_candidates()); }

 private:
  Backend& backend_;
  std::unique_ptr<DraftHead> one_, other_;
  int rows_, k_;
  Buffer ids_, scores_;  // (rows, k) of the other
  Buffer sums_;          // (rows) of the other, then of the one
};

}  // namespace

HeadRows HeadRows::reduced(WeightSource source, DraftVocabulary vocabulary) {
  std::vector<TokenId> ids(vocabulary.rows.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[static_cast<std::size_t>(vocabulary.rows[i])] = vocabulary.tokens[i];
  }
  return {std::move(source), nullptr, std::move(vocabulary), std::move(ids)};
}

HeadRows HeadRows::shared(WeightSource source, const Weight* weight, DraftVocabulary vocabulary) {
  return {std::move(source), weight, std::move(vocabulary), {}};
}

HeadRows HeadRows::padded(const Tokenizer& tokenizer) const {
  HeadRows rows = *this;
  if (is_part()) return rows;  // its tokens are named
  int used = std::min(static_cast<int>(source.rows), tokenizer.size());
  while (used > 0 && tokenizer.token_type(used - 1) == TokenType::Unused) --used;
  if (used > 0) rows.padding = static_cast<int>(source.rows) - used;
  return rows;
}

std::optional<std::int32_t> HeadRows::row_of(TokenId token) const {
  // A whole model may have fewer rows than the target has ids: padding, which no text holds.
  if (!is_part()) return token >= 0 && token < count() ? std::optional(token) : std::nullopt;
  const auto at = std::lower_bound(vocabulary.tokens.begin(), vocabulary.tokens.end(), token);
  if (at == vocabulary.tokens.end() || *at != token) return std::nullopt;
  return vocabulary.rows[static_cast<std::size_t>(at - vocabulary.tokens.begin())];
}

std::vector<std::int32_t> HeadRows::in_order(std::vector<std::int32_t> rows) const {
  std::sort(rows.begin(), rows.end(), [this](std::int32_t a, std::int32_t b) { return token(a) < token(b); });
  return rows;
}

std::vector<std::int32_t> HeadRows::rows_of(std::span<const TokenId> tokens) const {
  std::vector<std::int32_t> rows;
  for (const TokenId token : tokens) {
    if (const auto row = row_of(token)) rows.push_back(*row);
  }
  return rows;
}

std::unique_ptr<DraftHead> make_full_head(Backend& backend, const HeadRows& rows) {
  if (rows.is_part()) return make_listed_head(backend, rows, rows.in_order(rows.vocabulary.rows));
  return std::make_unique<FullHead>(backend, rows);
}

std::unique_ptr<DraftHead> make_listed_head(Backend& backend, const HeadRows& rows,
                                            std::span<const std::int32_t> chosen,
                                            std::unique_ptr<AdaptiveRows> adaptive) {
  return std::make_unique<ListedHead>(backend, ListedRows(backend, rows, chosen, std::move(adaptive)));
}

std::vector<std::unique_ptr<DraftHead>> make_ranked_heads(Backend& backend, const HeadRows& rows,
                                                          std::span<const std::int32_t> ranked,
                                                          std::span<const int> sizes,
                                                          std::unique_ptr<AdaptiveRows> adaptive) {
  const int most = *std::max_element(sizes.begin(), sizes.end());
  auto shared = std::make_shared<SharedRows>(
      SharedRows{ListedRows(backend, rows, ranked.first(static_cast<std::size_t>(most)), std::move(adaptive)), {}});
  TokenId highest = static_cast<TokenId>(rows.source.rows) - 1;
  if (rows.is_learned()) highest = *std::max_element(rows.ids.begin(), rows.ids.end());
  shared->places.assign(static_cast<std::size_t>(highest) + 1, most);
  const std::vector<TokenId>& tokens = shared->rows.tokens();
  for (int place = 0; place < most; ++place) {
    shared->places[static_cast<std::size_t>(tokens[static_cast<std::size_t>(place)])] = place;
  }
  std::vector<std::unique_ptr<DraftHead>> heads;
  for (const int size : sizes) heads.push_back(std::make_unique<RankedHead>(backend, shared, size, heads.empty()));
  return heads;
}

std::unique_ptr<DraftHead> make_united_head(Backend& backend, std::unique_ptr<DraftHead> one,
                                            std::unique_ptr<DraftHead> other, int rows, int k) {
  return std::make_unique<UnitedHead>(backend, std::move(one), std::move(other), rows, k);
}

}  // namespace frspec
