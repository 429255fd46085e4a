// Part of the target's vocabulary that a drafter has rows for: that of a head of its own (EAGLE-3: tensor d2t, the
// token of each row), or what another vocabulary shares with the target's.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"
#include "vocab/token_ranks.h"

namespace frspec {

// Rows of a drafter's head, in ascending order of the tokens that they stand for.
struct DraftVocabulary {
  std::vector<std::int32_t> rows;
  std::vector<TokenId> tokens;                                       // each once
  const char* whose = "the tokens that the drafter's own head has";  // for messages
};

// What tensor 'd2t' says about the rows of the drafter's head, tensor `head`, of which there are `rows` (0: none of its
// own); nothing where row i is token i. Throws InvalidInput where it is missing although there are fewer rows than
// tokens, or is not one target token per row.
std::optional<DraftVocabulary> read_draft_vocabulary(const GgufFile& file, std::int64_t rows, const Tokenizer& target,
                                                     std::string_view head = "output.weight");

// The `size` first of its tokens in ranked_order, ascending. Throws InvalidInput where it has fewer.
std::vector<TokenId> ranked_part(const DraftVocabulary& vocabulary, const TokenRanks& ranks, int size,
                                 const Tokenizer& target);

}  // namespace frspec
