// What every tokenizer reads from a GGUF file: tokens, their types and bytes, and the special ones among them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"
#include "tokenizer/string_index.h"
#include "tokenizer/text_matcher.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

inline constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";

struct Vocabulary {
  std::string file;                     // for messages
  std::string_view model;               // tokenizer.ggml.model: one of the known names
  std::string_view pre;                 // BPE: the name of its pre-tokenizer
  std::vector<char> all_texts;          // the texts of all tokens, one after the other: what `texts` points into
  std::vector<std::string_view> texts;  // (V)
  std::vector<TokenType> types;         // (V)
  std::vector<float> scores;            // (V) or empty
  std::vector<std::string> bytes;       // (V) what each token spells
  StringIndex by_text;

  std::optional<TokenId> bos, eos, unknown;
  bool adds_bos = false;
  bool adds_eos = false;
  bool adds_space_prefix = false;
  std::vector<bool> ends_generation;  // (V)
  std::vector<bool> eats_space;       // (V) of special tokens: whitespace behind them belongs to them; or empty
  TextMatcher user_defined;           // user-defined tokens, which are recognised in every text
  TextMatcher special;                // these and control tokens
  std::map<std::string, std::string, std::less<>> chat_templates;  // by name; "" is the default one
  std::string fingerprint;

  std::int32_t size() const { return static_cast<std::int32_t>(texts.size()); }
  // Tokens that may come out of ordinary text.
  bool is_ordinary(TokenId id) const {
    const TokenType type = types[static_cast<std::size_t>(id)];
    return type == TokenType::Normal || type == TokenType::Undefined || type == TokenType::UserDefined;
  }
  bool eats_space_behind(TokenId id) const { return !eats_space.empty() && eats_space[static_cast<std::size_t>(id)]; }
  // Tokens that decode() leaves out unless asked for special ones.
  bool is_silent(TokenId id) const {
    const TokenType type = types[static_cast<std::size_t>(id)];
    return type == TokenType::Control || type == TokenType::Unknown || type == TokenType::Unused;
  }
};

// How a model turns a normal token's text into bytes; nothing where the text is not of its kind.
using TextToBytes = std::optional<std::string> (*)(std::string_view text);

// Whether ordinary text can become the token with this id, whatever its type: a word, not a mark.
using IsSpelled = bool (*)(const GgufFile& file, const Vocabulary& vocabulary, TokenId id);

struct VocabularyDefaults {
  std::string_view model;
  std::string_view pre = {};
  TextToBytes text_to_bytes = nullptr;
  IsSpelled is_spelled = nullptr;
  bool adds_bos = false;
  bool adds_space_prefix = false;
  // Where the file names none, and the token is of that kind.
  std::optional<TokenId> bos = {}, eos = {}, unknown = {};
};

// Throws InvalidInput for anything that a tokenizer could not rely on.
Vocabulary load_vocabulary(const GgufFile& file, const VocabularyDefaults& defaults);

// The byte that a text like "<0x0A>" stands for.
std::optional<char> parse_byte_token(std::string_view text);

// Makes control tokens of those that begin or end a turn, or a piece of code to fill in, but are of another type
// (known_tokens.cpp). A token that ordinary text can become stays what it is.
void correct_types(const GgufFile& file, IsSpelled is_spelled, Vocabulary& vocabulary);
// Marks the tokens after which generation ends.
void find_end_of_generation(const GgufFile& file, Vocabulary& vocabulary);

// Marks the tokens that take the whitespace behind them along.
void find_space_eaters(const GgufFile& file, Vocabulary& vocabulary);

// The token id under `key`, if any. One that is none of `size` tokens is left out with a warning.
std::optional<TokenId> find_token_id(const GgufFile& file, std::string_view key, std::int32_t size);

}  // namespace frspec
