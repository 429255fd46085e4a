// Which tokens are frequent: ids in order of rank, from a drafter's GGUF file or a ranks file (docs/formats.md).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

struct TokenRanks {
  std::string file;                 // for messages
  std::vector<TokenId> ids;         // most frequent first, each once
  std::vector<double> counts = {};  // (V) how often each token occurred, by its id; empty: nobody knows
};

// The tensor 'token_ranks' of a file, checked against the target's vocabulary, and 'token_counts' where it has them;
// nothing where there are no ranks. Throws InvalidInput for ids out of range or repeated, counts that are none, or
// ranks that were counted for another vocabulary.
std::optional<TokenRanks> read_ranks(const GgufFile& file, const Tokenizer& target);

// A ranks file as frspec-rank writes it.
TokenRanks load_ranks(const std::filesystem::path& path, const Tokenizer& target);

// The `size` rows of a ranked head, ascending: all control tokens, then the most frequent others (FR-Spec, 2502.14856,
// section 3.2; that control tokens must stay is our addition). Throws InvalidInput where `size` is out of range.
std::vector<TokenId> ranked_subset(const TokenRanks& ranks, int size, const Tokenizer& target);

// The rows that a small subset should always have, as far as `size` goes: the same, without an error where it is short.
std::vector<TokenId> frequent_tokens(const TokenRanks& ranks, int size, const Tokenizer& target);

}  // namespace frspec
