// The pages of one sequence in a cache, among those that ended sequences have left there.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/page_pool.h"
#include "model/page_trie.h"

namespace frspec {

// Pages that hold so many slots.
constexpr int pages_for(std::int64_t slots) { return static_cast<int>((slots + kPageSlots - 1) / kPageSlots); }

// Pages for what ended sequences leave: so many times those of a whole context.
constexpr int spare_pages(double share, int context) { return static_cast<int>(share * pages_for(context)); }

// What a sequence may reuse, and leave for others.
struct Reuse {
  bool on = true;
  std::string salt = {};   // sequences of different salts share nothing
  bool by_drafter = true;  // whether a drafter has been told, or wants to be, of what the target reads
};

class SequencePages {
 public:
  // For sequences of up to `slots` slots, and `spare` pages more for what ended ones leave. `ahead` as PageTrie's.
  SequencePages(Backend& backend, std::int64_t slots, int spare, int ahead);

  // Of the cache, in all pages.
  int slots() const { return pool_.size() * kPageSlots; }
  SequenceView behind(std::int32_t* length) const { return {length, table_.as<std::int32_t>(), most_}; }

  // Layers whose keys and values lie in these pages. What was kept is forgotten when some come or go.
  void add(std::span<const KvLayer> layers);
  void remove(std::span<const KvLayer> layers);

  // Another sequence begins: `text`. Returns how many of its slots are there already, at most `most`. What the sequence
  // before has not left (end) is gone.
  std::int32_t begin(std::span<const std::int32_t> text, std::int32_t most, const Reuse& reuse);
  // From now on it has room for so many slots.
  void reserve(std::int64_t slots);
  // The slots from `slots` on will be written anew.
  void truncate(std::int32_t slots);
  // It has ended: `text` is what its first `slots` slots are of, and the tokens behind them; the drafter was told of
  // the first `drafted` ones.
  void end(std::span<const std::int32_t> text, std::int32_t slots, std::int32_t drafted, const Reuse& reuse);

  const PagePool& pool() const { return pool_; }
  int kept() const { return trie_.pages(); }

 private:
  std::int32_t take();
  void upload(std::size_t first);
  void drop();

  Backend& backend_;
  int most_;  // pages of a sequence
  PagePool pool_;
  PageTrie trie_;
  std::vector<KvLayer> layers_;
  std::vector<std::int32_t> pages_;  // of the sequence, each held
  std::size_t shared_ = 0;           // the first ones of them, into which it does not write
  Buffer table_;                     // (most)
};

}  // namespace frspec
