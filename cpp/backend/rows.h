// The rows of a pass: which sequence each belongs to, and where it stands there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace frspec {

// Slots of a page of the cache. What is stored about a token takes a slot; a sequence takes pages, anywhere in the
// cache. Attention walks a sequence page by page, so where its pages lie changes no bit.
inline constexpr int kPageSlots = 64;

// A sequence in the cache (device memory). Its slot p is slot kPageSlots * pages[p / kPageSlots] + p % kPageSlots of
// the cache's.
struct SequenceView {
  std::int32_t* length = nullptr;       // (1) committed tokens: those of slots 0, 1, ...
  const std::int32_t* pages = nullptr;  // (page_count); null where tokens are chosen only
  int page_count = 0;
  // The committed tokens, and behind them the root of the next tree, history[*length]; null where they are not known.
  std::int32_t* history = nullptr;
  int state = 0;  // which recurrent state of each DeltaLayer is its own
};

// Rows of a pass that belong to one sequence: at most one group for each, in the order of the rows.
struct RowGroup {
  SequenceView sequence;
  int first = 0;
  int count = 0;
  bool is_chain = true;  // depths 0, 1, ..., whatever Rows::depth has there
};

// A set of tokens for each row of a pass (device memory): token t is bit t % 32 of a row's word t / 32.
struct TokenBits {
  const std::uint32_t* words = nullptr;
  std::ptrdiff_t stride = 0;  // words of a row, at least V / 32

  constexpr explicit operator bool() const { return words != nullptr; }
  constexpr const std::uint32_t* row(std::int64_t r) const { return words + r * stride; }
};

// Where the rows of one pass stand in the logical sequence: behind the committed tokens of theirs, as a chain or a
// tree. A row's position is its sequence's length + depth; it sees the committed tokens, then the `path` of its
// ancestors and itself, in that order.
struct Rows {
  int count = 0;
  SequenceView sequence;        // of all rows, where there are no groups
  std::int32_t first_slot = 0;  // the rows of a sequence are stored in its slots length + first_slot + 0, 1, ...
  const std::int32_t* depth = nullptr;  // (count); null: chains, depths 0, 1, ... (and first_slot is 0). Where only
                                        // tokens are chosen, -1 stands for the last committed token itself
  const std::int32_t* path = nullptr;  // (count, path_stride): slots behind the length, entries 0..depth; null: a chain
  int path_stride = 0;
  TokenBits allowed = {};                 // where tokens are chosen: those that may follow each row; none: any
  std::span<const RowGroup> groups = {};  // host; of several sequences: cache and attention only

  std::size_t group_count() const { return groups.empty() ? 1 : groups.size(); }
  int first_of(std::size_t group) const { return groups.empty() ? 0 : groups[group].first; }
  // The rows of one group, as a pass of their own.
  Rows of_group(std::size_t group) const {
    if (groups.empty()) return *this;
    const RowGroup& g = groups[group];
    Rows rows = range(g.first, g.count);
    rows.sequence = g.sequence;
    rows.groups = {};
    if (g.is_chain) rows.depth = rows.path = nullptr;
    return rows;
  }
  // Some of the rows of one sequence. Not of a chain, but for its beginning.
  constexpr Rows range(int first, int number) const {
    Rows part = *this;
    part.count = number;
    if (depth != nullptr) part.depth += first;
    if (path != nullptr) part.path += std::ptrdiff_t{first} * path_stride;
    if (allowed) part.allowed.words = allowed.row(first);
    return part;
  }
};

}  // namespace frspec
