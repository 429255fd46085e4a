// Ranks where no file brings any: those of widespread vocabularies, counted once and part of the library, and for
// others the order in which the vocabulary itself was built, the frequent tokens first.
#pragma once

#include <cstdint>
#include <string>

#include "tokenizer/tokenizer.h"
#include "vocab/token_ranks.h"

namespace frspec {

// Fnv1a64 over the ids and texts of a vocabulary's ordinary tokens. Not among them is what differs between fine-tunes
// of one model and between converters: tokens that look special ("<...>", "[...]"), whatever type a file gives them,
// tokens of all types but the normal one, and how many there are.
std::string ordinary_fingerprint(const Tokenizer& vocabulary);

// All tokens but control tokens. `source` is "built-in", "merges" (BPE) or "scores" (SPM).
TokenRanks builtin_ranks(const Tokenizer& vocabulary);

}  // namespace frspec
