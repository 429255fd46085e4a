#include "vocab/adaptive_ranks.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace frspec {
namespace {

constexpr std::int32_t kFixed = -2, kNowhere = -1;

TokenCounts first_counts(const CountsFile& file, const Tokenizer& tokenizer, const TokenRanks& prior) {
  if (auto saved = file.read()) return *std::move(saved);
  std::vector<double> counts = prior.counts;
  if (std::accumulate(counts.begin(), counts.end(), 0.0) <= 0.0) counts = zipf_counts(prior.ids, tokenizer);
  TokenCounts first(tokenizer.size());
  first.add_prior(counts, kPriorTokens);
  return first;
}

}  // namespace

AdaptiveRanks::AdaptiveRanks(const std::filesystem::path& path, std::shared_ptr<const Tokenizer> tokenizer,
                             const TokenRanks& prior)
    : tokenizer_(std::move(tokenizer)),
      file_(path, tokenizer_),
      all_(first_counts(file_, *tokenizer_, prior)),
      known_(all_),
      fresh_(tokenizer_->size(), all_.half_life()) {}

TokenRanks AdaptiveRanks::ranks() const {
  return {.file = file_.path().string(), .ids = all_.best(all_.vocab()), .source = "adapted"};
}

void AdaptiveRanks::begin_anew() {
  fresh_ = TokenCounts(all_.vocab(), all_.half_life());
  forks_ = fork_count();
  due_ = kSaveEvery;
}

void AdaptiveRanks::add(std::span<const TokenId> tokens) {
  if (forks_ != fork_count()) begin_anew();
  all_.add(tokens);
  fresh_.add(tokens);
}

void AdaptiveRanks::save(std::chrono::milliseconds patience) {
  std::error_code ignored;
  // Where there is no file, one is made; but a forked process leaves that to its parent.
  const bool is_forked = forks_ != fork_count();
  if (unsaved() == 0 && (is_forked || std::filesystem::exists(file_.path(), ignored))) return;
  due_ = unsaved() + kSaveEvery;
  all_ = file_.merge(fresh_, known_, patience);
  known_ = all_;
  begin_anew();
}

AdaptiveRows::AdaptiveRows(std::shared_ptr<AdaptiveRanks> ranks, std::span<const std::int32_t> rows,
                           std::vector<std::int32_t> row_of_token, std::span<const int> sizes)
    : ranks_(std::move(ranks)),
      row_of_token_(std::move(row_of_token)),
      place_of_(row_of_token_.size(), kFixed),
      token_at_(rows.size(), kFixed),
      sizes_(sizes.begin(), sizes.end()) {
  std::sort(sizes_.begin(), sizes_.end());
  if (sizes_.empty()) sizes_.push_back(static_cast<int>(rows.size()));
  token_at_.resize(static_cast<std::size_t>(sizes_.back()));
  std::int32_t highest = *std::max_element(row_of_token_.begin(), row_of_token_.end());
  for (const std::int32_t row : rows) highest = std::max(highest, row);
  std::vector<std::int32_t> place_of_row(static_cast<std::size_t>(highest) + 1, kNowhere);
  for (std::size_t place = 0; place < token_at_.size(); ++place) {
    place_of_row[static_cast<std::size_t>(rows[place])] = static_cast<std::int32_t>(place);
  }
  for (std::size_t token = 0; token < row_of_token_.size(); ++token) {
    if (row_of_token_[token] == kNoRow) continue;
    if (ranks_->tokenizer().token_type(static_cast<TokenId>(token)) == TokenType::Control) continue;
    const std::int32_t place = place_of_row[static_cast<std::size_t>(row_of_token_[token])];
    place_of_[token] = place;
    if (place != kNowhere) token_at_[static_cast<std::size_t>(place)] = static_cast<TokenId>(token);
  }
}

std::span<const AdaptiveRows::Change> AdaptiveRows::update() {
  changes_.clear();
  const std::span<const double> weights = ranks_->counts().scaled_weights();
  for (const int size : sizes_) {
    find_leaving(weights, size);
    if (leaving_.empty()) continue;
    find_entering(weights, size);
    for (std::size_t i = 0; i < std::min(leaving_.size(), entering_.size()); ++i) {
      const std::int32_t place = leaving_[i].index;
      const TokenId entering = entering_[i].index, leaving = token_at_[static_cast<std::size_t>(place)];
      const std::int32_t from = place_of_[static_cast<std::size_t>(entering)];
      // Who comes from a place of a larger head changes places: two rows are replaced.
      const std::size_t replaced = from == kNowhere ? 1 : 2;
      if (entering_[i].weight <= leaving_[i].weight || changes_.size() + replaced > kMostReplaced) break;
      note(place);
      token_at_[static_cast<std::size_t>(place)] = entering;
      place_of_[static_cast<std::size_t>(entering)] = place;
      place_of_[static_cast<std::size_t>(leaving)] = from;
      if (from == kNowhere) continue;
      note(from);
      token_at_[static_cast<std::size_t>(from)] = leaving;
    }
  }
  for (Change& change : changes_) change.row = row_at(change.place);
  std::erase_if(changes_, [](const Change& change) { return change.row == change.old_row; });
  ranks_->note_replaced(changes_.size());
  return changes_;
}

void AdaptiveRows::note(std::int32_t place) {
  const auto is_here = [place](const Change& change) { return change.place == place; };
  if (std::none_of(changes_.begin(), changes_.end(), is_here)) changes_.push_back({place, row_at(place), kNoRow});
}

// Adds one to a heap of at most kMostReplaced; the one that comes last in the order falls out.
template <class Before>
void AdaptiveRows::keep(std::vector<Weighted>& heap, Weighted one, const Before& before) {
  heap.push_back(one);
  std::push_heap(heap.begin(), heap.end(), before);
  if (heap.size() <= kMostReplaced) return;
  std::pop_heap(heap.begin(), heap.end(), before);
  heap.pop_back();
}

// Both keep the best of what they look at in a heap, whose worst is the bar for what comes: most things are looked at
// once and forgotten.
void AdaptiveRows::find_leaving(std::span<const double> weights, int size) {
  const auto less = [](const Weighted& a, const Weighted& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.index > b.index;
  };
  leaving_.clear();
  double bar = std::numeric_limits<double>::infinity();
  for (std::int32_t place = 0; place < size; ++place) {
    const TokenId token = token_at_[static_cast<std::size_t>(place)];
    if (token == kFixed || weights[static_cast<std::size_t>(token)] > bar) continue;
    keep(leaving_, {weights[static_cast<std::size_t>(token)], place}, less);
    if (leaving_.size() == kMostReplaced) bar = leaving_.front().weight;
  }
  std::sort_heap(leaving_.begin(), leaving_.end(), less);
}

void AdaptiveRows::find_entering(std::span<const double> weights, int size) {
  const auto more = [](const Weighted& a, const Weighted& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.index < b.index;
  };
  entering_.clear();
  double bar = leaving_.front().weight;  // nobody can enter who is not above it
  for (std::size_t token = 0; token < weights.size(); ++token) {
    if (weights[token] <= bar) continue;
    const std::int32_t place = place_of_[token];
    if (place == kFixed || (place != kNowhere && place < size)) continue;
    keep(entering_, {weights[token], static_cast<std::int32_t>(token)}, more);
    if (entering_.size() == kMostReplaced) bar = entering_.front().weight;
  }
  std::sort_heap(entering_.begin(), entering_.end(), more);
}

}  // namespace frspec
