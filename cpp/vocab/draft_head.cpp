// Head policies whose rows do not change, and unions.
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
  FullHead(Backend& backend, const HeadRows& rows) : backend_(backend), weight_(rows.weight) {
    if (weight_ != nullptr) return;
    own_ = backend.load(rows.source);
    weight_ = own_.get();
  }

  int size() const override { return static_cast<int>(weight_->rows()); }
  std::vector<const Weight*> matrices() const override { return {weight_}; }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    backend_.head_top_k(best, hidden, {.weight = weight_}, pointer_to(noise));
  }

 private:
  Backend& backend_;
  const Weight* weight_;         // (size, dim)
  std::unique_ptr<Weight> own_;  // where nobody else has loaded them
};

class ListedHead final : public DraftHead {
 public:
  ListedHead(Backend& backend, const HeadRows& rows, std::span<const std::int32_t> chosen)
      : backend_(backend), weight_(backend.load_rows(rows.source, chosen)) {
    std::vector<TokenId> ids;
    for (const std::int32_t row : chosen) ids.push_back(rows.token(row));
    ids_ = upload_ids(backend, ids);
  }

  int size() const override { return static_cast<int>(weight_->rows()); }
  std::vector<const Weight*> matrices() const override { return {weight_.get()}; }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    backend_.head_top_k(best, hidden, {.weight = weight_.get(), .ids = ids_.as<std::int32_t>()}, pointer_to(noise));
  }

 private:
  Backend& backend_;
  std::unique_ptr<Weight> weight_;  // (size, dim)
  Buffer ids_;                      // (size) ascending
};

// The rows that ranked heads of several sizes share.
struct RankedRows {
  std::unique_ptr<Weight> weight;    // (most, dim), the most frequent token's first
  Buffer ids;                        // (most)
  std::vector<std::int32_t> places;  // by token; beyond all places where it has none
};

class RankedHead final : public DraftHead {
 public:
  RankedHead(Backend& backend, std::shared_ptr<const RankedRows> rows, int size)
      : backend_(backend), rows_(std::move(rows)), size_(size) {}

  int size() const override { return size_; }
  std::vector<const Weight*> matrices() const override { return {rows_->weight.get()}; }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    backend_.head_top_k(best, hidden,
                        {.weight = rows_->weight.get(), .ids = rows_->ids.as<std::int32_t>(), .count = size_},
                        pointer_to(noise));
  }
  bool holds(TokenId token) const override {
    const auto at = static_cast<std::size_t>(token);
    return at < rows_->places.size() && rows_->places[at] < size_;
  }

 private:
  Backend& backend_;
  std::shared_ptr<const RankedRows> rows_;
  int size_;
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
  void begin() override {
    one_->begin();
    other_->begin();
  }
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

std::optional<std::int32_t> HeadRows::row_of(TokenId token) const {
  if (!is_reduced()) return token;
  const auto at = std::lower_bound(vocabulary.tokens.begin(), vocabulary.tokens.end(), token);
  if (at == vocabulary.tokens.end() || *at != token) return std::nullopt;
  return vocabulary.rows[static_cast<std::size_t>(at - vocabulary.tokens.begin())];
}

std::vector<std::int32_t> HeadRows::rows_of(std::span<const TokenId> tokens) const {
  std::vector<std::int32_t> rows;
  for (const TokenId token : tokens) {
    if (const auto row = row_of(token)) rows.push_back(*row);
  }
  return rows;
}

std::unique_ptr<DraftHead> make_full_head(Backend& backend, const HeadRows& rows) {
  if (rows.is_reduced()) return make_listed_head(backend, rows, rows.vocabulary.rows);
  return std::make_unique<FullHead>(backend, rows);
}

std::unique_ptr<DraftHead> make_listed_head(Backend& backend, const HeadRows& rows,
                                            std::span<const std::int32_t> chosen) {
  return std::make_unique<ListedHead>(backend, rows, chosen);
}

std::vector<std::unique_ptr<DraftHead>> make_ranked_heads(Backend& backend, const HeadRows& rows,
                                                          std::span<const std::int32_t> ranked,
                                                          std::span<const int> sizes) {
  auto shared = std::make_shared<RankedRows>();
  const int most = *std::max_element(sizes.begin(), sizes.end());
  const auto used = ranked.first(static_cast<std::size_t>(most));
  shared->weight = backend.load_rows(rows.source, used);
  std::vector<TokenId> ids;
  for (const std::int32_t row : used) ids.push_back(rows.token(row));
  shared->ids = upload_ids(backend, ids);
  shared->places.assign(static_cast<std::size_t>(*std::max_element(ids.begin(), ids.end())) + 1, most);
  for (int place = 0; place < most; ++place) {
    shared->places[static_cast<std::size_t>(ids[static_cast<std::size_t>(place)])] = place;
  }
  std::vector<std::unique_ptr<DraftHead>> heads;
  for (const int size : sizes) heads.push_back(std::make_unique<RankedHead>(backend, shared, size));
  return heads;
}

std::unique_ptr<DraftHead> make_united_head(Backend& backend, std::unique_ptr<DraftHead> one,
                                            std::unique_ptr<DraftHead> other, int rows, int k) {
  return std::make_unique<UnitedHead>(backend, std::move(one), std::move(other), rows, k);
}

}  // namespace frspec
