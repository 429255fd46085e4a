// The pages of the sequences in a cache.
#include "model/sequence_pages.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {

SequencePages::SequencePages(Backend& backend, std::int64_t slots, int spare, int ahead, int places)
    : backend_(backend),
      most_(pages_for(slots)),
      pool_(most_ + spare),
      trie_(pool_, ahead),
      held_(static_cast<std::size_t>(places)),
      table_(
          backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(most_) * static_cast<std::size_t>(places))) {
  for (Held& held : held_) held.pages.reserve(static_cast<std::size_t>(most_));
  users_.resize(static_cast<std::size_t>(pool_.size()));
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
  return page;
}

void SequencePages::append(std::int32_t page) {
  own().pages.push_back(page);
  if (users_[static_cast<std::size_t>(page)]++ == 0) ++held_pages_;
}

void SequencePages::release(std::int32_t page) {
  if (--users_[static_cast<std::size_t>(page)] == 0) --held_pages_;
  pool_.release(page);
}

void SequencePages::upload(std::size_t first) {
  const auto fresh = std::span(own().pages).subspan(first);
  if (fresh.empty()) return;
  backend_.upload(row() + first, fresh.data(), fresh.size_bytes());
}

void SequencePages::drop() {
  // The last first: what nobody holds is taken again in this order.
  std::vector<std::int32_t>& pages = own().pages;
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) release(*page);
  pages.clear();
  own().shared = 0;
}

std::int32_t SequencePages::begin(std::span<const std::int32_t> text, std::int32_t most, const Reuse& reuse) {
  drop();
  if (!reuse.on) return 0;
  const PageTrie::Match found = trie_.match(reuse.salt, text, most, reuse.by_drafter);
  const std::vector<std::int32_t>& pages = own().pages;
  for (const std::int32_t page : found.pages) append(page);
  own().shared = pages.size();
  std::int32_t slots = found.slots;
  if (found.partial != PagePool::kNone) {
    if (chaos_ != nullptr && chaos_->plants("page")) {
      append(found.partial);
      pool_.hold(found.partial);
    } else if (const std::int32_t page = take(); page != PagePool::kNone) {
      append(page);
      backend_.copy_page(layers_, found.partial, page);
    } else {
      slots = static_cast<std::int32_t>(pages.size()) * kPageSlots;
    }
    pool_.release(found.partial);
  }
  upload(0);
  if (chaos_ != nullptr && chaos_->plants("slot") && slots > 0 && slots % kPageSlots != 0)
    return std::min(slots + 1, most);
  return slots;
}

void SequencePages::forget(int pages) {
  while (pages-- > 0 && trie_.evict()) {
  }
}

void SequencePages::shuffle(Chaos& chaos) {
  if (pool_.free() > 0) pool_.turn(chaos.below(pool_.free()));
}

bool SequencePages::reserve(std::int64_t slots) {
  const std::vector<std::int32_t>& pages = own().pages;
  const auto needed = static_cast<std::size_t>(pages_for(slots));
  if (needed > static_cast<std::size_t>(most_)) {
    throw Error(concat("cache: found ", slots, " slots of a sequence, expected at most ", most_ * kPageSlots));
  }
  const std::size_t first = pages.size();
  std::int32_t page = 0;
  while (pages.size() < needed && (page = take()) != PagePool::kNone) append(page);
  upload(std::min(first, pages.size()));
  return pages.size() >= needed;
}

std::int32_t SequencePages::truncate(std::int32_t slots) {
  std::vector<std::int32_t>& pages = own().pages;
  const auto whole = static_cast<std::size_t>(slots / kPageSlots);
  if (own().shared <= whole) return slots;
  const std::size_t kept = static_cast<std::size_t>(pages_for(slots));
  for (std::size_t i = pages.size(); i-- > kept;) release(pages[i]);
  pages.resize(kept);
  own().shared = whole;
  if (kept == whole) return slots;
  const std::int32_t page = take();
  if (page != PagePool::kNone) backend_.copy_page(layers_, pages[whole], page);
  release(pages[whole]);
  pages.resize(whole);
  if (page == PagePool::kNone) return static_cast<std::int32_t>(whole) * kPageSlots;
  append(page);
  upload(whole);
  return slots;
}

void SequencePages::share(std::span<const std::int32_t> text, std::int32_t slots, std::int32_t drafted,
                          const Reuse& reuse) {
  if (reuse.on) trie_.insert(reuse.salt, text, own().pages, slots / kPageSlots * kPageSlots, drafted);
}

void SequencePages::end(std::span<const std::int32_t> text, std::int32_t slots, std::int32_t drafted,
                        const Reuse& reuse) {
  if (reuse.on) trie_.insert(reuse.salt, text, own().pages, slots, drafted);
  drop();
}

}  // namespace frspec
