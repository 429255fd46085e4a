// The reduced vocabulary of a drafter with a head of its own (EAGLE-3): tensor d2t, the token of each row.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"
#include "vocab/token_ranks.h"

namespace frspec {

// Rows of a drafter's own head, in ascending order of the tokens that they stand for.
struct DraftVocabulary {
  std::vector<std::int32_t> rows;
  std::vector<TokenId> tokens;  // each once
};

// What tensor 'd2t' says about the rows of `output.weight`, of which there are `rows` (0: none of its own); nothing
// where row i is token i. Throws InvalidInput where it is missing although there are fewer rows than tokens, or is
// not one target token per row.
std::optional<DraftVocabulary> read_draft_vocabulary(const GgufFile& file, std::int64_t rows, const Tokenizer& target);

// The `size` best-ranked of its tokens, control tokens first (as ranked_subset). Throws InvalidInput where it has
// fewer.
DraftVocabulary ranked_part(const DraftVocabulary& vocabulary, const TokenRanks& ranks, int size,
                            const Tokenizer& target);

}  // namespace frspec
