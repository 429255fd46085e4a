#include "draft/adapt.h"

#include <chrono>

#include "base/error.h"
#include "vocab/adaptive_ranks.h"
#include "vocab/head_spec.h"
#include "vocab/token_ranks.h"

namespace frspec {
namespace {

// At the end of a text somebody waits for it; whoever else is writing the file is done in some milliseconds.
constexpr std::chrono::milliseconds kPatience{200};
constexpr std::chrono::milliseconds kFinalPatience{10'000};

}  // namespace

void check_adapt(const DraftOptions& options, const HeadSpec& head) {
  if (!options.adapt) return;
  if (!options.drafter) {
    fail("adapt: found a ranks file, ", options.adapt->string(), ", but there is no drafter to use it");
  }
  // "auto" has heads of both kinds where the pair allows them.
  if (!head.is_auto() && !head.find(HeadSpec::Kind::Ranked) && !head.find(HeadSpec::Kind::Contextual)) {
    fail("adapt: found a ranks file, ", options.adapt->string(), ", and head '", head.text(),
         "', none of whose rows follow ranks; expected 'auto', 'ranked:N', 'contextual' or a union with one of them");
  }
}

RankKeeper::RankKeeper(const DraftOptions& options, const std::shared_ptr<const Tokenizer>& tokenizer,
                       const GgufFile& drafter)
    : ranks_(
          std::make_shared<AdaptiveRanks>(*options.adapt, tokenizer, find_ranks(options.ranks, drafter, *tokenizer))) {}

RankKeeper::~RankKeeper() {
  if (ranks_->unsaved() == 0) return;
  try {
    save();
  } catch (const std::exception&) {
    // Nobody is left to be told. Who wants to know calls save().
  }
}

void RankKeeper::count(std::span<const TokenId> tokens) { ranks_->add(tokens); }

void RankKeeper::save() { ranks_->save(kFinalPatience); }

std::string RankKeeper::save_if_due() {
  if (!ranks_->is_due()) return {};
  try {
    ranks_->save(kPatience);
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

std::int64_t RankKeeper::replaced() const { return ranks_->replaced(); }

}  // namespace frspec
