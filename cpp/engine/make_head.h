// The head that a user's options ask for.
#pragma once

#include <functional>
#include <memory>

#include "engine/options.h"
#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"
#include "vocab/draft_head.h"
#include "vocab/head_spec.h"
#include "vocab/token_ranks.h"

namespace frspec {

struct HeadParts {
  Backend& backend;
  const Tokenizer& target;
  std::shared_ptr<const GgufFile> file;               // the drafter's
  int rows = 0;                                       // states whose best tokens are wanted at once, at most
  std::shared_ptr<AdaptiveRanks> adaptive = nullptr;  // not null: ranked rows follow them
};

// The target's tokens that a ranked head keeps of the given rows, ascending.
std::vector<TokenId> ranked_tokens(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                   const HeadRows& rows);

// What makes `chosen` rows of a ranked head follow the ranks, where they adapt; else null. `row_of_token`: the row of
// each of the target's tokens, or AdaptiveRows::kNoRow; `sizes`: as AdaptiveRows has them.
std::unique_ptr<AdaptiveRows> follow_ranks(const HeadParts& parts, std::span<const std::int32_t> chosen,
                                           const std::function<std::int32_t(TokenId)>& row_of_token,
                                           std::span<const int> sizes = {});

// A head that chooses among the given rows. Throws InvalidInput where a policy lacks what it needs: ranks, a sketch, a
// reduced head.
std::unique_ptr<DraftHead> make_head(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                     const HeadRows& rows);

}  // namespace frspec
