// A text that one tokenizer writes token by token, as another tokenizer would have it.
//
// Tokenizing is not compositional: a new character may change the tokens before it. So the end of the text is encoded
// again each time, and aligned with what was there by a border that both have; everything before it stays, and with it
// the part of the drafter's cache that belongs to it (2502.05202, section 3.1, look-behind).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "vocab/alignment.h"

namespace frspec {

class Retokenizer {
 public:
  // All three must outlive it.
  Retokenizer(const Tokenizer& from, const Tokenizer& to, const VocabularyAlignment& alignment)
      : from_(from), to_(to), alignment_(alignment) {}

  void begin();
  // Takes tokens of `from`. Afterwards the first `kept` of tokens() are what they were before the call.
  std::size_t push(std::span<const TokenId> tokens);

  const std::vector<TokenId>& tokens() const { return tokens_; }
  // Bytes at the end of the text that are no whole character yet: tokens() do not spell them.
  const std::string& held() const { return held_; }

 private:
  void add_text(std::string_view bytes);
  void encode_end();

  const Tokenizer& from_;
  const Tokenizer& to_;
  const VocabularyAlignment& alignment_;
  std::vector<TokenId> tokens_;
  std::vector<std::size_t> ends_;  // byte of text_ behind each token
  std::string text_;               // since the last control token
  std::size_t first_token_ = 0;    // of that text
  std::string held_;
  std::size_t kept_ = 0;
  bool at_start_ = true;  // nothing was spelled yet
};

// Encodes `text` so that it fits behind `context` (both end and begin at whole characters): the tokens that `tokenizer`
// puts behind the border between them, if it puts a border there, else those of `text` alone.
std::vector<TokenId> encode_behind(const Tokenizer& tokenizer, std::string_view context, std::string_view text);

// The part of `bytes` that is whole, valid UTF-8 characters from its beginning; a cut-off character at the end is not,
// and bytes that can never be one end it.
std::size_t whole_characters(std::string_view bytes);

}  // namespace frspec
