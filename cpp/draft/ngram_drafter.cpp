// N-gram drafting.
#include "draft/ngram_drafter.h"

#include <algorithm>

namespace frspec {
namespace {

constexpr std::size_t kPlaces = 4;  // of an n-gram that are remembered: the latest ones

}  // namespace

void NgramIndex::clear() {
  text_.clear();
  indexed_ = 0;
  ends_by_hash_.clear();
}

void NgramIndex::push(std::span<const TokenId> tokens) { text_.insert(text_.end(), tokens.begin(), tokens.end()); }

std::uint64_t NgramIndex::hash(std::size_t end, int n) const {
  std::uint64_t value = static_cast<std::uint64_t>(n);
  for (std::size_t i = end - static_cast<std::size_t>(n); i < end; ++i) {
    value = (value ^ static_cast<std::uint32_t>(text_[i])) * 0x9E3779B97F4A7C15u;
    value ^= value >> 29;
  }
  return value;
}

// The n-grams that something follows: all that end before the text does.
void NgramIndex::index() {
  for (; indexed_ + 1 < text_.size(); ++indexed_) {
    const std::size_t end = indexed_ + 1;
    for (int n = std::min(kShortest, longest_); n <= longest_ && static_cast<std::size_t>(n) <= end; ++n) {
      std::vector<std::uint32_t>& ends = ends_by_hash_[hash(end, n)];
      if (ends.size() == kPlaces) ends.erase(ends.begin());
      ends.push_back(static_cast<std::uint32_t>(end));
    }
  }
}

std::vector<std::span<const TokenId>> NgramIndex::continuations(int length, std::size_t most) {
  index();
  std::vector<std::span<const TokenId>> result;
  for (int n = longest_; n >= std::min(kShortest, longest_); --n) {
    if (static_cast<std::size_t>(n) > text_.size()) continue;
    const auto found = ends_by_hash_.find(hash(text_.size(), n));
    if (found == ends_by_hash_.end()) continue;
    for (auto end = found->second.rbegin(); end != found->second.rend() && result.size() < most; ++end) {
      const std::size_t size = std::min(static_cast<std::size_t>(length), text_.size() - *end);
      result.push_back(std::span(text_).subspan(*end, size));
    }
  }
  return result;
}

NgramDrafter::NgramDrafter(Backend& backend, std::unique_ptr<Drafter> inner, int longest, int nodes, int depth,
                           int inner_size, int inner_depth)
    : backend_(backend),
      inner_(std::move(inner)),
      index_(longest),
      nodes_(nodes),
      depth_(depth),
      tree_(DraftTree::with_room(backend, inner_size + nodes, std::max(depth, inner_depth))) {}

void NgramDrafter::begin(const TextRules& rules) {
  index_.clear();
  is_chain_ = rules.rejection != nullptr;
  if (inner_) inner_->begin(rules);
}

void NgramDrafter::accept(const Committed& committed) {
  if (!index_.text().empty()) index_.pop();  // the root was there before it was processed
  index_.push(committed.tokens);
  index_.push(std::span(&committed.next_token, 1));
  if (inner_) inner_->accept(committed);
}

const DraftTree& NgramDrafter::propose(const std::int32_t* root) {
  const auto paths = index_.continuations(depth_, is_chain_ ? 1 : static_cast<std::size_t>(nodes_));
  host_.begin(index_.text().back());
  if (inner_) {
    const DraftTree& inner = inner_->propose(root);
    if (paths.empty()) return inner;
    const auto size = static_cast<std::size_t>(inner.size());
    std::vector<std::int32_t> tokens(size), parents(size);
    backend_.download(tokens.data(), inner.view().tokens, size * sizeof(std::int32_t));
    backend_.download(parents.data(), inner.view().parents, size * sizeof(std::int32_t));
    host_.assign(std::move(tokens), std::move(parents));
  }
  const std::size_t most = host_.tokens().size() + static_cast<std::size_t>(nodes_);
  for (const auto& path : paths) host_.add_path(path, most, depth_);
  tree_.assign(backend_, host_.tokens(), host_.parents());
  return tree_;
}

}  // namespace frspec
