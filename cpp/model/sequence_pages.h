// The pages of the sequences in a cache, and those that ended sequences have left there.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/chaos.h"
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

// There are places for several sequences, whose pages come from one pool: whoever is about one of them says so (`use`).
class SequencePages {
 public:
  // For up to `places` sequences at once, each of up to `slots` slots. There are pages for one such sequence, and
  // `spare` more, for others and for what ended ones leave. `ahead` as PageTrie's.
  SequencePages(Backend& backend, std::int64_t slots, int spare, int ahead, int places = 1);

  // Of the cache, in all pages.
  int slots() const { return pool_.size() * kPageSlots; }
  int places() const { return static_cast<int>(held_.size()); }
  // The place that all calls are about from now on.
  void use(int place) { place_ = static_cast<std::size_t>(place); }
  // `lengths`: (places).
  SequenceView behind(std::int32_t* lengths) const { return {lengths + place_, row(), most_}; }
  std::size_t place() const { return place_; }

  // Layers whose keys and values lie in these pages. What was kept is forgotten when some come or go.
  void add(std::span<const KvLayer> layers);
  void remove(std::span<const KvLayer> layers);

  // Another sequence begins: `text`. Returns how many of its slots are there already, at most `most`. What the sequence
  // before has not left (end) is gone.
  std::int32_t begin(std::span<const std::int32_t> text, std::int32_t most, const Reuse& reuse);
  // From now on it has room for so many slots. False: other sequences hold the pages that are missing.
  [[nodiscard]] bool reserve(std::int64_t slots);
  // The slots from `slots` on will be written anew. Returns from where on they will: perhaps earlier, where no page is
  // left for a copy.
  std::int32_t truncate(std::int32_t slots);
  // What it has in its first `slots` slots, whole pages of them, is for others now; it goes on. As end().
  void share(std::span<const std::int32_t> text, std::int32_t slots, std::int32_t drafted, const Reuse& reuse);
  // It has ended: `text` is what its first `slots` slots are of, and the tokens behind them; the drafter was told of
  // the first `drafted` ones.
  void end(std::span<const std::int32_t> text, std::int32_t slots, std::int32_t drafted, const Reuse& reuse);

  const PagePool& pool() const { return pool_; }
  int kept() const { return trie_.pages(); }
  int held() const { return held_pages_; }  // pages that sequences have
  // For tests: faults that are made on purpose; pages that are forgotten; free ones in another order.
  void disturb(Chaos* chaos) { chaos_ = chaos; }
  void forget(int pages);
  void shuffle(Chaos& chaos);

 private:
  // The pages of a sequence, each held.
  struct Held {
    std::vector<std::int32_t> pages;
    std::size_t shared = 0;  // the first ones of them, into which it does not write
  };

  Held& own() { return held_[place_]; }
  std::int32_t* row() const {
    return table_.as<std::int32_t>() + static_cast<std::ptrdiff_t>(place_) * std::ptrdiff_t{most_};
  }
  std::int32_t take();  // PagePool::kNone: all are held
  // The sequence has one page more, which is held for it; and one less of those that it had.
  void append(std::int32_t page);
  void release(std::int32_t page);
  void upload(std::size_t first);
  void drop();

  Backend& backend_;
  int most_;  // pages of a sequence
  PagePool pool_;
  PageTrie trie_;
  std::vector<KvLayer> layers_;
  std::vector<Held> held_;  // (places)
  std::size_t place_ = 0;
  Buffer table_;            // (places, most)
  std::vector<int> users_;  // (pages) sequences that have them
  int held_pages_ = 0;
  Chaos* chaos_ = nullptr;
};

}  // namespace frspec
