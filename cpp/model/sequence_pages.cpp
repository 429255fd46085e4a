// The pages of one sequence in a cache.
#include "model/sequence_pages.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {

SequencePages::SequencePages(Backend& backend, std::int64_t slots, int spare, int ahead)
    : backend_(backend),
      most_(pages_for(slots)),
      pool_(most_ + spare),
      trie_(pool_, ahead),
      table_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(most_))) {
  pages_.reserve(static_cast<std::size_t>(most_));
}

void SequencePages::add(std::span<const KvLayer> layers) {
  layers_.insert(layers_.end(), layers.begin(), layers.end());
  trie_.clear();
}

void SequencePages::remove(std::span<const KvLayer> layers) {
  std::erase_if(layers_, [&](const KvLayer& layer) {
    return std::ranges::any_of(layers, [&](const KvLayer& gone) { return gone.keys == layer.keys; });
  });
  trie_.clear();
}

std::int32_t SequencePages::take() {
  std::int32_t page = pool_.take();
  while (page == PagePool::kNone && trie_.evict()) page = pool_.take();
  if (page == PagePool::kNone) throw Error(concat("cache: all ", pool_.size(), " pages are taken"));
  return page;
}

void SequencePages::upload(std::size_t first) {
  const auto fresh = std::span(pages_).subspan(first);
  if (fresh.empty()) return;
  backend_.upload(table_.as<std::int32_t>() + first, fresh.data(), fresh.size_bytes());
}

void SequencePages::drop() {
  // The last first: what nobody holds is taken again in this order.
  for (auto page = pages_.rbegin(); page != pages_.rend(); ++page) pool_.release(*page);
  pages_.clear();
  shared_ = 0;
}

std::int32_t SequencePages::begin(std::span<const std::int32_t> text, std::int32_t most, const Reuse& reuse) {
  drop();
  if (!reuse.on) return 0;
  const PageTrie::Match found = trie_.match(reuse.salt, text, most, reuse.by_drafter);
  pages_ = found.pages;
  shared_ = pages_.size();
  if (found.partial != PagePool::kNone) {
    pages_.push_back(take());
    backend_.copy_page(layers_, found.partial, pages_.back());
    pool_.release(found.partial);
  }
  upload(0);
  return found.slots;
}

void SequencePages::reserve(std::int64_t slots) {
  const auto needed = static_cast<std::size_t>(pages_for(slots));
  if (needed > static_cast<std::size_t>(most_)) {
    throw Error(concat("cache: found ", slots, " slots of a sequence, expected at most ", most_ * kPageSlots));
  }
  const std::size_t first = pages_.size();
  while (pages_.size() < needed) pages_.push_back(take());
  upload(std::min(first, pages_.size()));
}

void SequencePages::truncate(std::int32_t slots) {
  const auto whole = static_cast<std::size_t>(slots / kPageSlots);
  if (shared_ <= whole) return;
  const std::size_t kept = static_cast<std::size_t>(pages_for(slots));
  for (std::size_t i = pages_.size(); i-- > kept;) pool_.release(pages_[i]);
  pages_.resize(kept);
  shared_ = whole;
  if (kept == whole) return;
  const std::int32_t page = take();
  backend_.copy_page(layers_, pages_[whole], page);
  pool_.release(pages_[whole]);
  pages_[whole] = page;
  upload(whole);
}

void SequencePages::end(std::span<const std::int32_t> text, std::int32_t slots, std::int32_t drafted,
                        const Reuse& reuse) {
  if (reuse.on) trie_.insert(reuse.salt, text, pages_, slots, drafted);
  drop();
}

}  // namespace frspec
