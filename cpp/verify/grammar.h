// What a text may be, as the engine asks for it: token by token, along the paths of a draft tree.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace frspec {

// A grammar and how far one text has come in it. What it allows must depend on the tokens of the text alone, or drafted
// and plain text differ.
class Grammar {
 public:
  virtual ~Grammar() = default;

  // The text goes on with these tokens.
  virtual void advance(std::span<const TokenId> tokens) = 0;
  // The tokens that must follow, as far as they are known, `most` at most.
  virtual std::vector<TokenId> forced(int most) = 0;
  // What may follow each node of a draft tree, whose root is the last token of the text: a set of tokens for each
  // (TokenBits), all of them empty before. The set of a node that may not be there stays empty.
  virtual void fill(std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents,
                    std::span<std::uint32_t> sets) = 0;
};

}  // namespace frspec
