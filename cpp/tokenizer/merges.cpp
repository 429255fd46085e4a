// The merge table, and merging by scanning (short words) or with a heap (long ones).
#include "tokenizer/merges.h"

#include <algorithm>
#include <functional>

namespace frspec {
namespace {

// Scanning for the lowest rank takes n^2 steps, but of a few bytes each.
constexpr std::size_t kLongWord = 96;
constexpr std::uint32_t kNoneLeft = std::numeric_limits<std::uint32_t>::max();

}  // namespace

bool MergeTable::add(Symbol left, Symbol right, Merge merge) {
  if ((count_ + 1) * 2 > slots_.size()) resize_slots((count_ + 1) * 2);
  const std::uint64_t key = key_of(left, right);
  std::size_t at = slot_of(key);
  while (slots_[at].key != kFree) {
    if (slots_[at].key == key) return false;
    at = (at + 1) & mask_;
  }
  slots_[at] = {key, merge};
  ++count_;
  return true;
}

void MergeTable::resize_slots(std::size_t expected) {
  int bits = 4;
  while ((std::size_t{1} << bits) < expected * 2) ++bits;
  std::vector<Slot> old(std::size_t{1} << bits);
  old.swap(slots_);
  mask_ = slots_.size() - 1;
  shift_ = 64 - bits;
  count_ = 0;
  for (const Slot& slot : old) {
    if (slot.key == kFree) continue;
    std::size_t at = slot_of(slot.key);
    while (slots_[at].key != kFree) at = (at + 1) & mask_;
    slots_[at] = slot;
    ++count_;
  }
}

void MergeTable::apply(std::vector<Symbol>& symbols, MergeScratch& scratch) const {
  if (symbols.size() < 2) return;
  scratch.ranks.resize(symbols.size());
  scratch.merged.resize(symbols.size());
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
    const Merge merge = find(symbols[i], symbols[i + 1]);
    scratch.ranks[i] = merge.rank;
    scratch.merged[i] = merge.merged;
  }
  scratch.ranks.back() = kNoRank;
  if (symbols.size() < kLongWord) {
    apply_to_short(symbols, scratch);
  } else {
    apply_to_long(symbols, scratch);
  }
}

void MergeTable::apply_to_short(std::vector<Symbol>& symbols, MergeScratch& scratch) const {
  Symbol* const symbol = symbols.data();
  std::uint32_t* const rank = scratch.ranks.data();
  Symbol* const merged = scratch.merged.data();
  std::size_t count = symbols.size();
  const auto update = [&](std::size_t i) {
    const Merge merge = find(symbol[i], symbol[i + 1]);
    rank[i] = merge.rank;
    merged[i] = merge.merged;
  };
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (rank[i] < rank[best]) best = i;
    }
    if (rank[best] == kNoRank) break;
    symbol[best] = merged[best];
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      symbol[i] = symbol[i + 1];
      rank[i] = rank[i + 1];
      merged[i] = merged[i + 1];
    }
    --count;
    if (best > 0) update(best - 1);
    if (best + 1 < count) {
      update(best);
    } else {
      rank[best] = kNoRank;
    }
  }
  symbols.resize(count);
}

void MergeTable::apply_to_long(std::vector<Symbol>& symbols, MergeScratch& scratch) const {
  const auto count = static_cast<std::uint32_t>(symbols.size());
  auto& [ranks, merged, next, previous, heap] = scratch;
  next.resize(count);
  previous.resize(count);
  heap.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kNoneLeft;
    previous[i] = i > 0 ? i - 1 : kNoneLeft;
    if (ranks[i] != kNoRank) heap.push_back(std::uint64_t{ranks[i]} << 32 | i);
  }
  const std::greater<> lowest_first;
  std::ranges::make_heap(heap, lowest_first);
  const auto update = [&](std::uint32_t at) {
    const Merge merge = find(symbols[at], symbols[next[at]]);
    ranks[at] = merge.rank;
    merged[at] = merge.merged;
    if (merge.rank == kNoRank) return;
    heap.push_back(std::uint64_t{merge.rank} << 32 | at);
    std::ranges::push_heap(heap, lowest_first);
  };
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, lowest_first);
    const auto at = static_cast<std::uint32_t>(heap.back());
    const auto rank = static_cast<std::uint32_t>(heap.back() >> 32);
    heap.pop_back();
    if (ranks[at] != rank) continue;  // the pair has changed since
    const std::uint32_t gone = next[at];
    symbols[at] = merged[at];
    ranks[at] = ranks[gone] = kNoRank;
    next[at] = next[gone];
    if (next[at] != kNoneLeft) {
      previous[next[at]] = at;
      update(at);
    }
    if (previous[at] != kNoneLeft) update(previous[at]);
  }
  std::size_t kept = 0;
  for (std::uint32_t at = 0; at != kNoneLeft; at = next[at]) symbols[kept++] = symbols[at];
  symbols.resize(kept);
}

}  // namespace frspec
