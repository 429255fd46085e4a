// The head that a user's options ask for.
#pragma once

#include <functional>
#include <memory>

#include "engine/options.h"
#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"
#include "vocab/choice_head.h"
#include "vocab/draft_head.h"
#include "vocab/head_spec.h"
#include "vocab/token_ranks.h"

namespace frspec {

struct HeadParts {
  Backend& backend;
  const Tokenizer& target;
  std::shared_ptr<const GgufFile> file;  // the drafter's
  int rows = 0;                          // states whose best tokens are wanted at once, at most
  ChoiceHead** choice = nullptr;         // where a head of policy "auto" is told, which owns itself
};

// The target's tokens that a ranked head keeps of the given rows, ascending.
std::vector<TokenId> ranked_tokens(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                   const HeadRows& rows);

// A head that chooses among the given rows. Throws InvalidInput where a policy lacks what it needs: ranks, a sketch, a
// reduced head.
std::unique_ptr<DraftHead> make_head(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                     const HeadRows& rows);

}  // namespace frspec
