// The head that a user's options ask for.
#pragma once

#include <functional>
#include <memory>

#include "draft/options.h"
#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"
#include "vocab/choice_head.h"
#include "vocab/draft_head.h"
#include "vocab/head_spec.h"
#include "vocab/recording_head.h"
#include "vocab/token_ranks.h"

namespace frspec {

struct HeadParts {
  Backend& backend;
  const Tokenizer& vocabulary;           // that the head's rows stand for: the target's, or the drafter's own
  std::shared_ptr<const GgufFile> file;  // the drafter's
  int rows = 0;                          // states whose best tokens are wanted at once, at most
  std::shared_ptr<AdaptiveRanks> adaptive = nullptr;  // not null: ranked rows follow them
  std::shared_ptr<StateRecord> states = nullptr;      // not null: the states that it meets are noted there
  std::string* ranks_source = nullptr;                // where TokenRanks::source of the head's ranks is told
  // Whether the vocabulary is another one than the target's: a sketch of its head knows nothing of what both share.
  bool is_foreign = false;
  bool is_told = true;                 // of the text, in its own tokens
  ChoiceHead::Spelling spelling = {};  // as ChoiceHead has it
};

// A head that chooses among the given rows. Throws InvalidInput where a policy lacks what it needs: ranks, a sketch, a
// reduced head.
std::unique_ptr<DraftHead> make_head(const HeadSpec& spec, const DraftOptions& options, const HeadParts& parts,
                                     const HeadRows& rows);

}  // namespace frspec
