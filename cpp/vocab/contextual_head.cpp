#include "vocab/contextual_head.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {
namespace {

constexpr int kCandidates = 8;  // of the target's after each token: more of them push out tokens that were written
constexpr std::int32_t kNoPlace = -1;

class ContextualHead final : public DraftHead {
 public:
  ContextualHead(Backend& backend, const HeadRows& rows, std::span<const std::int32_t> fixed, int places,
                 std::span<const std::int32_t> seed, std::unique_ptr<AdaptiveRows> adaptive)
      : backend_(backend),
        rows_(rows),
        adaptive_(std::move(adaptive)),
        fixed_(static_cast<int>(fixed.size())),
        place_of_(static_cast<std::size_t>(rows.source.rows), kNoPlace) {
    row_at_.assign(fixed.begin(), fixed.end());
    for (const std::int32_t row : fixed) place_of_[static_cast<std::size_t>(row)] = 0;
    std::vector<bool> taken(place_of_.size(), false);
    const auto take = [&](std::int32_t row) {
      if (static_cast<int>(seed_.size()) == places) return;
      if (place_of_[static_cast<std::size_t>(row)] != kNoPlace || taken[static_cast<std::size_t>(row)]) return;
      taken[static_cast<std::size_t>(row)] = true;
      seed_.push_back(row);
    };
    for (const std::int32_t row : seed) take(row);
    if (rows.is_part()) {
      for (const std::int32_t row : rows.vocabulary.rows) take(row);
    } else {
      for (std::int32_t row = 0; row < rows.count(); ++row) take(row);
    }
    row_at_.insert(row_at_.end(), seed_.begin(), seed_.end());
    weight_ = backend.load_rows(rows.source, row_at_);
    ids_ = backend.allocate(row_at_.size() * sizeof(TokenId));
    for (std::size_t place = 0; place < row_at_.size(); ++place) {
      place_of_[static_cast<std::size_t>(row_at_[place])] = static_cast<std::int32_t>(place);
      tokens_.push_back(rows.token(row_at_[place]));
    }
    upload_ids();
    newer_.resize(row_at_.size());
    older_.resize(row_at_.size());
    order();
  }

  int size() const override { return static_cast<int>(row_at_.size()); }
  std::vector<const Weight*> matrices() const override { return {weight_.get()}; }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    write();  // only now: among several heads it may not be the one in use
    backend_.head_top_k(best, hidden, {.weight = weight_.get(), .ids = ids_.as<std::int32_t>()},
                        noise ? &*noise : nullptr);
  }

  std::optional<bool> holds(TokenId token) const override {
    // Of two vocabularies it is named as the head names it.
    const auto row = rows_.is_learned() ? rows_.row_of(token) : std::optional(token);
    if (!row || *row < 0 || *row >= static_cast<std::int32_t>(place_of_.size())) return false;
    return place_of_[static_cast<std::size_t>(*row)] != kNoPlace;
  }

  void begin() override {
    if (adaptive_) replace_fixed();
    for (std::size_t i = 0; i < seed_.size(); ++i) {
      const auto place = static_cast<std::size_t>(fixed_) + i;
      if (row_at_[place] == seed_[i]) continue;
      if (place_of_[static_cast<std::size_t>(row_at_[place])] == static_cast<std::int32_t>(place)) {
        place_of_[static_cast<std::size_t>(row_at_[place])] = kNoPlace;
      }
      put(seed_[i], static_cast<std::int32_t>(place));
    }
    order();
    write();
  }

  void observe(const TextNews& news) override {
    if (seed_.empty()) return;
    for (const TokenId token : news.candidates) meet(token);
    for (const TokenId token : news.tokens) meet(token);
  }

  int wanted_candidates() const override { return seed_.empty() ? 0 : std::min(kCandidates, size()); }

 private:
  // Rows that come in are not among the seed any more; those that go may take their places there.
  void replace_fixed() {
    for (const auto& [place, old_row, row] : adaptive_->update()) {
      std::replace(seed_.begin(), seed_.end(), row, old_row);
      place_of_[static_cast<std::size_t>(old_row)] = kNoPlace;
      put(row, place);
    }
  }

  // All places that follow the text, the first of the seed newest.
  void order() {
    newest_ = seed_.empty() ? kNoPlace : fixed_;
    oldest_ = seed_.empty() ? kNoPlace : size() - 1;
    for (int place = fixed_; place < size(); ++place) {
      newer_[static_cast<std::size_t>(place)] = place > fixed_ ? place - 1 : kNoPlace;
      older_[static_cast<std::size_t>(place)] = place + 1 < size() ? place + 1 : kNoPlace;
    }
  }

  void make_newest(std::int32_t place) {
    if (place == newest_) return;
    const auto at = static_cast<std::size_t>(place);
    const std::int32_t newer = newer_[at], older = older_[at];
    older_[static_cast<std::size_t>(newer)] = older;
    if (older != kNoPlace) {
      newer_[static_cast<std::size_t>(older)] = newer;
    } else {
      oldest_ = newer;
    }
    newer_[at] = kNoPlace;
    older_[at] = newest_;
    newer_[static_cast<std::size_t>(newest_)] = place;
    newest_ = place;
  }

  void meet(TokenId token) {
    const auto row = rows_.row_of(token);
    if (!row) return;
    std::int32_t place = place_of_[static_cast<std::size_t>(*row)];
    if (place != kNoPlace && place < fixed_) return;
    if (place == kNoPlace) {
      place = oldest_;
      place_of_[static_cast<std::size_t>(row_at_[static_cast<std::size_t>(place)])] = kNoPlace;
      put(*row, place);
    }
    make_newest(place);
  }

  void put(std::int32_t row, std::int32_t place) {
    row_at_[static_cast<std::size_t>(place)] = row;
    tokens_[static_cast<std::size_t>(place)] = rows_.token(row);
    place_of_[static_cast<std::size_t>(row)] = place;
    changed_.push_back(place);
  }

  // Brings what has changed to the device.
  void write() {
    if (changed_.empty()) return;
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    changed_rows_.clear();
    for (const std::int32_t place : changed_) changed_rows_.push_back(row_at_[static_cast<std::size_t>(place)]);
    backend_.replace_rows(*weight_, rows_.source, changed_, changed_rows_);
    upload_ids();
    changed_.clear();
  }

  void upload_ids() { backend_.upload(ids_.as<void>(), tokens_.data(), tokens_.size() * sizeof(TokenId)); }

  Backend& backend_;
  HeadRows rows_;
  std::unique_ptr<AdaptiveRows> adaptive_;   // null: the fixed places keep their rows
  int fixed_;                                // places that stay, the first ones
  std::vector<std::int32_t> seed_;           // rows of the other places when a text begins
  std::vector<std::int32_t> row_at_;         // (places)
  std::vector<TokenId> tokens_;              // (places)
  std::vector<std::int32_t> place_of_;       // (rows of the head)
  std::vector<std::int32_t> newer_, older_;  // (places) neighbours in the order in which they were met
  std::int32_t newest_ = kNoPlace, oldest_ = kNoPlace;
  std::vector<std::int32_t> changed_, changed_rows_;
  std::unique_ptr<Weight> weight_;  // (places, dim)
  Buffer ids_;                      // (places)
};

}  // namespace

std::unique_ptr<DraftHead> make_contextual_head(Backend& backend, const HeadRows& rows,
                                                std::span<const std::int32_t> fixed, int places,
                                                std::span<const std::int32_t> seed,
                                                std::unique_ptr<AdaptiveRows> adaptive) {
  return std::make_unique<ContextualHead>(backend, rows, fixed, places, seed, std::move(adaptive));
}

}  // namespace frspec
