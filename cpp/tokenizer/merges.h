// The merging that byte-level BPE and SPM share: of all neighbouring symbols that merge, those of the lowest rank are
// merged first, the leftmost first among equals, until nothing merges.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace frspec {

using Symbol = std::int32_t;
constexpr Symbol kNoSymbol = -1;  // stands for a character that takes part in no merge

// Scratch memory of apply(), to be used again for the next word.
struct MergeScratch {
  std::vector<std::uint32_t> ranks;  // of the pair that begins at each symbol
  std::vector<Symbol> merged;        // what that pair becomes
  std::vector<std::uint32_t> next;   // the rest serves long words only
  std::vector<std::uint32_t> previous;
  std::vector<std::uint64_t> heap;
};

class MergeTable {
 public:
  static constexpr std::uint32_t kNoRank = std::numeric_limits<std::uint32_t>::max();

  struct Merge {
    std::uint32_t rank;  // kNoRank: the pair does not merge
    Symbol merged;
  };

  explicit MergeTable(std::size_t expected = 0) { resize_slots(expected); }

  // False where the pair is there already.
  bool add(Symbol left, Symbol right, Merge merge);

  Merge find(Symbol left, Symbol right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = slot_of(key);; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.key == key || slot.key == kFree) return slot.merge;
    }
  }

  // Merges `symbols` as far as it goes. Linear memory, and n log n time for n symbols.
  void apply(std::vector<Symbol>& symbols, MergeScratch& scratch) const;

 private:
  static constexpr std::uint64_t kFree = std::numeric_limits<std::uint64_t>::max();  // the pair (kNoSymbol, kNoSymbol)
  struct Slot {
    std::uint64_t key = kFree;
    Merge merge = {kNoRank, kNoSymbol};
  };

  static std::uint64_t key_of(Symbol left, Symbol right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t slot_of(std::uint64_t key) const { return (key * 0x9E3779B97F4A7C15ULL) >> shift_; }
  void resize_slots(std::size_t expected);
  void apply_to_short(std::vector<Symbol>& symbols, MergeScratch& scratch) const;
  void apply_to_long(std::vector<Symbol>& symbols, MergeScratch& scratch) const;

  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  int shift_ = 0;
  std::size_t count_ = 0;
};

}  // namespace frspec
