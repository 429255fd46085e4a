// Ranks that follow what a user's texts are made of. FR-Spec's are static: counted once, over a corpus that may be
// nothing like the texts that are written.
//
// AdaptiveRanks counts; AdaptiveRows, one for each head, says which rows should make room for which when a text begins.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/forks.h"
#include "tokenizer/tokenizer.h"
#include "vocab/counts_file.h"
#include "vocab/token_counts.h"
#include "vocab/token_ranks.h"

namespace frspec {

// The weight of what is known in advance, in tokens. Measured: 2,000 give longer accepted drafts than 20,000 or
// 100,000, where texts are alike and where they are mixed (docs/frspec.md).
inline constexpr double kPriorTokens = 2'000;
// A file is replaced when so many tokens are new: it costs some milliseconds.
inline constexpr std::int64_t kSaveEvery = 10'000;

class AdaptiveRanks {
 public:
  // What the file at `path` holds, or where there is none `prior`. Throws as CountsFile does.
  AdaptiveRanks(const std::filesystem::path& path, std::shared_ptr<const Tokenizer> tokenizer, const TokenRanks& prior);

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const TokenCounts& counts() const { return all_; }
  TokenRanks ranks() const;  // the whole vocabulary, as it stands now

  void add(std::span<const TokenId> tokens);
  // Tokens that are not in the file yet. A forked process leaves to its parent what was counted before the fork.
  std::int64_t unsaved() const { return forks_ == fork_count() ? fresh_.counted() : 0; }
  // Whether there is enough to save. After a save that failed: again when there is as much more.
  bool is_due() const { return unsaved() >= due_; }
  // Does nothing where the file has it all. Throws as CountsFile::merge; what is unsaved stays so then.
  void save(std::chrono::milliseconds patience);

  // Rows that heads have replaced so far.
  std::int64_t replaced() const { return replaced_; }
  void note_replaced(std::size_t rows) { replaced_ += static_cast<std::int64_t>(rows); }

 private:
  void begin_anew();

  std::shared_ptr<const Tokenizer> tokenizer_;
  CountsFile file_;
  TokenCounts all_;                     // what the file held, and what came since
  TokenCounts known_;                   // what the file held
  TokenCounts fresh_;                   // what came since, in this process
  std::uint32_t forks_ = fork_count();  // when fresh_ began
  std::int64_t due_ = kSaveEvery;
  std::int64_t replaced_ = 0;
};

class AdaptiveRows {
 public:
  // Rows that are replaced when a text begins, at most. A row of 4096 columns takes about 10 microseconds, most of them
  // for reading its pages from the mapped file; a text of 128 tokens brings two or three that are new.
  static constexpr std::size_t kMostReplaced = 32;
  static constexpr std::int32_t kNoRow = -1;

  // `rows`: the head's row at each place; places of control tokens keep theirs. `row_of_token`: the row of each token
  // of the target, or kNoRow. `sizes`: the first so many places are a head of their own, too (none: there is one head,
  // of all places).
  AdaptiveRows(std::shared_ptr<AdaptiveRanks> ranks, std::span<const std::int32_t> rows,
               std::vector<std::int32_t> row_of_token, std::span<const int> sizes = {});

  struct Change {
    std::int32_t place, old_row, row;
  };
  // The most valuable changes, for each head, the smallest first: the most frequent tokens that have no place in it for
  // the least frequent ones that have. From now on they are made. Each place stands once. O(V) for each head, and
  // allocates nothing after the first call.
  std::span<const Change> update();

 private:
  struct Weighted {
    double weight;
    std::int32_t index;  // a place or a token
  };
  template <class Before>
  static void keep(std::vector<Weighted>& heap, Weighted one, const Before& before);
  void find_leaving(std::span<const double> weights, int size);
  void find_entering(std::span<const double> weights, int size);
  void note(std::int32_t place);  // that its token is about to change
  std::int32_t row_at(std::int32_t place) const {
    return row_of_token_[static_cast<std::size_t>(token_at_[static_cast<std::size_t>(place)])];
  }

  std::shared_ptr<AdaptiveRanks> ranks_;
  std::vector<std::int32_t> row_of_token_;  // (V)
  std::vector<std::int32_t> place_of_;  // (V) kNowhere for those that have a row, but no place; kFixed: may not change
  std::vector<TokenId> token_at_;       // (places) kFixed where it may not change
  std::vector<int> sizes_;              // ascending
  std::vector<Weighted> leaving_;       // places, the least frequent first
  std::vector<Weighted> entering_;      // tokens, the most frequent first
  std::vector<Change> changes_;
};

}  // namespace frspec
