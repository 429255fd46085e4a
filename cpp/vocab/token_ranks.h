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
  // Where they came from, in a word for users: "file", "drafter", "adapted", or as builtin_ranks.h has it.
  std::string source = {};
};

// The tensor 'token_ranks' of a file, checked against the target's vocabulary, and 'token_counts' where it has them;
// nothing where there are no ranks. Throws InvalidInput for ids out of range or repeated, counts that are none, or
// ranks that were counted for another vocabulary.
std::optional<TokenRanks> read_ranks(const GgufFile& file, const Tokenizer& target);

// A ranks file as frspec-rank writes it.
TokenRanks load_ranks(const std::filesystem::path& path, const Tokenizer& target);

// Whether a ranks file names this vocabulary as the one it was counted for.
bool ranks_are_of(const std::filesystem::path& path, const Tokenizer& vocabulary);

// The ranks of a vocabulary: those of the file that is given, else those in the drafter's, else the library's own. Of
// the first two, `target` as above.
TokenRanks find_ranks(const std::optional<std::filesystem::path>& given, const GgufFile& drafter,
                      const Tokenizer& target);

// Whether every subset has a token: control tokens, which are rare in a corpus and end every answer, but not those that
// a vocabulary keeps for later ("<unused12>", "<|reserved_special_token_3|>": numbered, and they end nothing), of which
// Gemma has 6,242.
bool is_always_kept(const Tokenizer& target, TokenId id);

// All that is ranked: tokens that are always kept, the others by rank; and last control tokens that are not kept.
// Without padding, whose rows nobody has trained.
std::vector<TokenId> ranked_order(const TokenRanks& ranks, const Tokenizer& target);

// The `size` rows of a ranked head, ascending: the first of ranked_order (FR-Spec, 2502.14856, section 3.2; that
// control tokens must stay is our addition). Throws InvalidInput where `size` is out of range.
std::vector<TokenId> ranked_subset(const TokenRanks& ranks, int size, const Tokenizer& target);

// The rows that a small subset should always have, as far as `size` goes: the same, without an error where it is short.
std::vector<TokenId> frequent_tokens(const TokenRanks& ranks, int size, const Tokenizer& target);

}  // namespace frspec
