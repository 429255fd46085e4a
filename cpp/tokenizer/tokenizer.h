// Text to token ids and back, from the vocabulary in a GGUF file. Byte-level BPE ("gpt2") and SPM ("llama").
//
// A tokenizer is immutable after loading: any number of threads may use one at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"

namespace frspec {

struct Vocabulary;

using TokenId = std::int32_t;

// What a token is for: numbered as `tokenizer.ggml.token_type`.
enum class TokenType : std::uint8_t {
  Undefined = 0,
  Normal = 1,
  Unknown = 2,
  Control = 3,
  UserDefined = 4,
  Unused = 5,
  Byte = 6
};

class Tokenizer {
 public:
  // Reads the vocabulary of `file`; throws InvalidInput for an unknown model or pre-tokenizer, duplicated tokens and
  // the like. What llama.cpp corrects is corrected, and `file` is given a warning: ids past the end, end-of-turn tokens
  // of another type than control, merges of unknown pieces.
  static std::unique_ptr<const Tokenizer> load(const GgufFile& file);
  virtual ~Tokenizer();

  // Token ids of `text` (UTF-8; invalid UTF-8 is an error that names the byte offset).
  // add_special: BOS/EOS as the vocabulary asks for, but no BOS before one that the text begins with. parse_special:
  // the text of a control token becomes that token; user-defined tokens are recognised always, as in llama.cpp.
  std::vector<TokenId> encode(std::string_view text, bool add_special = true, bool parse_special = false) const;

  // The bytes that `ids` spell (the concatenation may be invalid UTF-8 at its ends). Control tokens spell nothing
  // unless `special`; the space that SPM puts before a text is taken away again. Ids out of range are an error.
  std::string decode(std::span<const TokenId> ids, bool special = false) const;

  // The bytes one token spells in the middle of a text; a control token's are its text.
  const std::string& token_bytes(TokenId id) const;
  std::string_view token_text(TokenId id) const;  // as the vocabulary writes it
  TokenType token_type(TokenId id) const;
  float score(TokenId id) const;  // SPM: the higher, the sooner a token is built; 0 where the vocabulary has none
  std::optional<TokenId> find(std::string_view token_text) const;

  std::int32_t size() const;  // vocabulary size V
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  bool adds_bos() const;
  bool is_end_of_generation(TokenId id) const;  // EOS, EOT, EOM and their kin by text (<|eot_id|>, <|im_end|> ...)
  bool strips_leading_space() const;            // SPM puts a space before a text, and decode takes it away
  std::string_view model() const;               // "gpt2", "llama"
  std::string_view pre() const;                 // "llama-bpe" ...; empty for SPM
  // Jinja templates of chats: the default one, or one that has a name ("tool_use").
  std::optional<std::string_view> chat_template(std::string_view name = "") const;
  std::vector<std::string_view> chat_template_names() const;  // "" is the default one's

  // 64-bit FNV-1a over the size and all token texts, as 16 hex digits: tells whether two files share a vocabulary.
  const std::string& fingerprint() const;

 protected:
  explicit Tokenizer(Vocabulary&& vocabulary);
  const Vocabulary& vocabulary() const { return *vocabulary_; }

 private:
  friend class StreamDecoder;

  // Appends the tokens of a piece of text, valid UTF-8 and not empty, between special tokens.
  virtual void encode_fragment(std::string_view text, std::vector<TokenId>& ids) const = 0;

  // What decode() appends for `id`. `at_start` says that nothing was spelled yet and a leading space is to go; it is
  // updated.
  std::string_view spelled(TokenId id, bool special, bool& at_start) const;
  void check_id(TokenId id) const;

  std::unique_ptr<const Vocabulary> vocabulary_;
};

// Turns a stream of tokens into text without ever cutting a UTF-8 character: bytes are held back until they form
// whole characters; bytes that can never become one are replaced by U+FFFD, as Python's errors="replace" does.
class StreamDecoder {
 public:
  // `begins_text` false: the tokens continue a text, so SPM's leading space stays.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool begins_text = false);
  // The whole characters that are complete now; what it gives is there until the next call.
  std::string_view push(TokenId id);
  std::string finish();  // what is held back, replaced by U+FFFD; the decoder may be used again afterwards

 private:
  const Tokenizer* tokenizer_;
  bool begins_text_;
  bool at_start_;
  std::string pending_;  // the beginning of a character
  std::string text_;     // what push() gives
};

}  // namespace frspec
