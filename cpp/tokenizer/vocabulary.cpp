// Reading and checking a vocabulary.
#include "tokenizer/vocabulary.h"

#include <array>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"

namespace frspec {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";

void read_texts(const GgufFile& file, Vocabulary& vocabulary) {
  const GgufStrings& texts = file.get_strings(kTokensKey);
  if (texts.empty()) fail(vocabulary.file, ": key '", kTokensKey, "': found no tokens, expected at least one");
  if (texts.size() > static_cast<std::size_t>(std::numeric_limits<TokenId>::max())) {
    fail(vocabulary.file, ": key '", kTokensKey, "': found ", texts.size(), " tokens, expected fewer than 2^31");
  }
  std::size_t bytes = 0;
  for (const std::string_view text : texts) bytes += text.size();
  vocabulary.all_texts.reserve(bytes);
  vocabulary.texts.reserve(texts.size());
  vocabulary.by_text = StringIndex(texts.size());
  for (const std::string_view text : texts) {
    const char* copy = vocabulary.all_texts.data() + vocabulary.all_texts.size();
    vocabulary.all_texts.insert(vocabulary.all_texts.end(), text.begin(), text.end());
    const auto id = static_cast<TokenId>(vocabulary.texts.size());
    vocabulary.texts.emplace_back(copy, text.size());
    if (text.empty()) continue;  // a placeholder that no text can match; there may be several
    const TokenId known = vocabulary.by_text.insert(vocabulary.texts.back(), id);
    if (known != id) {
      fail(vocabulary.file, ": key '", kTokensKey, "': found ", quoted(text), " as token ", known, " and as token ", id,
           ", expected every text once");
    }
  }
}

// Fails where an array that runs beside the tokens is not as long as they are.
void check_length(const Vocabulary& vocabulary, std::string_view key, std::size_t found) {
  if (found == vocabulary.texts.size()) return;
  fail(vocabulary.file, ": key '", key, "': found ", found, " elements, expected ", vocabulary.texts.size(),
       ", one per token");
}

void read_scores(const GgufFile& file, Vocabulary& vocabulary) {
  std::optional<std::vector<float>> scores = file.find_floats(kScoresKey);
  if (!scores) return;
  check_length(vocabulary, kScoresKey, scores->size());
  for (std::size_t id = 0; id < scores->size(); ++id) {
    if (std::isnan((*scores)[id])) {
      fail(vocabulary.file, ": key '", kScoresKey, "': found NaN for token ", id, ", expected a number");
    }
  }
  vocabulary.scores = std::move(*scores);
}

// Without types, all tokens are normal but those that look like bytes of an SPM vocabulary.
void read_types(const GgufFile& file, Vocabulary& vocabulary) {
  const auto types = file.find_ints(kTypesKey);
  if (!types) {
    for (const std::string_view text : vocabulary.texts) {
      const bool is_byte = vocabulary.model == "llama" && parse_byte_token(text).has_value();
      vocabulary.types.push_back(is_byte ? TokenType::Byte : TokenType::Normal);
    }
    return;
  }
  check_length(vocabulary, kTypesKey, types->size());
  vocabulary.types.reserve(types->size());
  for (const std::int64_t type : *types) {
    if (type < 0 || type > static_cast<std::int64_t>(TokenType::Byte)) {
      fail(vocabulary.file, ": key '", kTypesKey, "': found ", type, " for token ", vocabulary.types.size(),
           ", expected a number from 0 to 6");
    }
    vocabulary.types.push_back(static_cast<TokenType>(type));
  }
}

std::string spelled_bytes(const Vocabulary& vocabulary, TokenId id, TextToBytes text_to_bytes) {
  const std::string_view text = vocabulary.texts[static_cast<std::size_t>(id)];
  switch (vocabulary.types[static_cast<std::size_t>(id)]) {
    case TokenType::Byte:
      if (const std::optional<char> byte = parse_byte_token(text)) return std::string(1, *byte);
      fail(vocabulary.file, ": key '", kTokensKey, "': found ", quoted(text), " as token ", id,
           ", which is of type byte; expected a text like \"<0x0A>\"");
    case TokenType::Normal:
    case TokenType::Undefined:
      if (std::optional<std::string> bytes = text_to_bytes(text)) return std::move(*bytes);
      fail(vocabulary.file, ": key '", kTokensKey, "': found ", quoted(text), " as token ", id,
           ", which is of type normal; expected the characters that stand for bytes in byte-level BPE");
    default:
      return std::string(text);
  }
}

// "bos" and the like, from the file or by default.
std::optional<TokenId> special_id(const GgufFile& file, const Vocabulary& vocabulary, std::string_view key,
                                  std::optional<TokenId> by_default, TokenType kind) {
  if (const auto id = find_token_id(file, key, vocabulary.size())) return id;
  const bool fits =
      by_default && *by_default < vocabulary.size() && vocabulary.types[static_cast<std::size_t>(*by_default)] == kind;
  return fits ? by_default : std::nullopt;
}

// Whether a special token is put around texts. A file that asks for a token it does not have is wrong; a default that
// asks for one is moot.
bool adds_token(const GgufFile& file, const Vocabulary& vocabulary, std::string_view key, std::string_view id_key,
                bool by_default, const std::optional<TokenId>& id) {
  const std::optional<bool> asked = file.find_bool(key);
  if (asked.value_or(false) && !id) {
    fail(vocabulary.file, ": key '", key, "': found true without the key '", id_key, "', expected both or false");
  }
  return asked.value_or(by_default) && id.has_value();
}

void read_special_tokens(const GgufFile& file, const VocabularyDefaults& defaults, Vocabulary& vocabulary) {
  constexpr std::string_view kBos = "tokenizer.ggml.bos_token_id";
  constexpr std::string_view kEos = "tokenizer.ggml.eos_token_id";
  vocabulary.bos = special_id(file, vocabulary, kBos, defaults.bos, TokenType::Control);
  vocabulary.eos = special_id(file, vocabulary, kEos, defaults.eos, TokenType::Control);
  vocabulary.unknown =
      special_id(file, vocabulary, "tokenizer.ggml.unknown_token_id", defaults.unknown, TokenType::Unknown);
  // Not used here, but whoever uses it may rely on it.
  find_token_id(file, "tokenizer.ggml.padding_token_id", vocabulary.size());
  vocabulary.adds_bos =
      adds_token(file, vocabulary, "tokenizer.ggml.add_bos_token", kBos, defaults.adds_bos, vocabulary.bos);
  vocabulary.adds_eos = adds_token(file, vocabulary, "tokenizer.ggml.add_eos_token", kEos, false, vocabulary.eos);

  std::vector<TextMatcher::Pattern> user_defined;
  std::vector<TextMatcher::Pattern> special;
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const TokenType type = vocabulary.types[static_cast<std::size_t>(id)];
    const std::string_view text = vocabulary.texts[static_cast<std::size_t>(id)];
    if (text.empty()) continue;
    if (type == TokenType::UserDefined) user_defined.push_back({text, id});
    if (type == TokenType::UserDefined || type == TokenType::Control || type == TokenType::Unknown) {
      special.push_back({text, id});
    }
  }
  vocabulary.user_defined = TextMatcher(user_defined);
  vocabulary.special = TextMatcher(special);
}

// The default one, and those that have names ("tool_use", "rag").
void read_chat_templates(const GgufFile& file, Vocabulary& vocabulary) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  if (const auto text = file.find_string(kKey)) vocabulary.chat_templates.emplace("", *text);
  for (const GgufEntry& entry : file.metadata()) {
    if (!entry.key.starts_with(kKey) || entry.key.substr(kKey.size(), 1) != ".") continue;
    vocabulary.chat_templates.emplace(entry.key.substr(kKey.size() + 1), *file.find_string(entry.key));
  }
}

std::string fingerprint_of(const Vocabulary& vocabulary) {
  Fnv1a64 hash;
  hash.add(std::to_string(vocabulary.size()));
  for (const std::string_view text : vocabulary.texts) {
    hash.add(text);
    hash.add(std::string_view("\0", 1));
  }
  return hash.text();
}

}  // namespace

std::optional<char> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : text.substr(3, 2)) {
    const unsigned digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                           : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A' + 10)
                           : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a' + 10)
                                                  : 16;
    if (digit == 16) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(value);
}

std::optional<TokenId> find_token_id(const GgufFile& file, std::string_view key, std::int32_t size) {
  const std::optional<std::int64_t> id = file.find_int(key);
  if (!id) return std::nullopt;
  if (*id < 0 || *id >= size) {
    fail(printable(file.path().string()), ": key '", key, "': found ", *id, ", expected a token id from 0 to ",
         size - 1);
  }
  return static_cast<TokenId>(*id);
}

Vocabulary load_vocabulary(const GgufFile& file, const VocabularyDefaults& defaults) {
  Vocabulary vocabulary;
  vocabulary.file = printable(file.path().string());
  vocabulary.model = defaults.model;
  vocabulary.pre = defaults.pre;
  read_texts(file, vocabulary);
  read_scores(file, vocabulary);
  read_types(file, vocabulary);
  vocabulary.bytes.reserve(vocabulary.texts.size());
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    vocabulary.bytes.push_back(spelled_bytes(vocabulary, id, defaults.text_to_bytes));
  }
  read_special_tokens(file, defaults, vocabulary);
  find_end_of_generation(file, vocabulary);
  vocabulary.adds_space_prefix =
      defaults.adds_space_prefix && file.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  read_chat_templates(file, vocabulary);
  vocabulary.fingerprint = fingerprint_of(vocabulary);
  return vocabulary;
}

}  // namespace frspec
