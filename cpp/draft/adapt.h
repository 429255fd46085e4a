// Ranks that adapt, in an engine: what they begin with, how they are counted and kept, and what they cannot be combined
// with.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "draft/options.h"
#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

class AdaptiveRanks;
struct HeadSpec;

// Throws InvalidInput where ranks should adapt, but the head has no rows that follow them.
void check_adapt(const DraftOptions& options, const HeadSpec& head);

// Counts the tokens that an engine hands out, and brings the counts to their file: now and then, when asked to, and in
// the end.
class RankKeeper {
 public:
  // The ranks that the options ask for (DraftOptions::adapt). `drafter`: its file. Throws as AdaptiveRanks does.
  RankKeeper(const DraftOptions& options, const std::shared_ptr<const Tokenizer>& tokenizer, const GgufFile& drafter);
  ~RankKeeper();
  RankKeeper(const RankKeeper&) = delete;
  RankKeeper& operator=(const RankKeeper&) = delete;

  const std::shared_ptr<AdaptiveRanks>& ranks() const { return ranks_; }
  void count(std::span<const TokenId> tokens);
  // Brings here what others have written to the file, too. Throws as CountsFile::merge does; nothing that was counted
  // is lost then.
  void save();
  // The same where there is enough to save, without waiting long. Returns what went wrong, or an empty string.
  std::string save_if_due();
  // Rows that heads have replaced so far.
  std::int64_t replaced() const;

 private:
  std::shared_ptr<AdaptiveRanks> ranks_;
};

}  // namespace frspec
