// SPM ("llama"): SentencePiece's BPE, where the score of what two neighbours become says which are merged first, spaces
// are characters like any other, and characters without a token are spelled in bytes.
#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/merges.h"
#include "tokenizer/models.h"
#include "tokenizer/string_index.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_cache.h"

namespace frspec {
namespace {

constexpr std::string_view kEscapedSpace = "\xE2\x96\x81";  // U+2581: how vocabularies write a space
// Every way to cut a token in two is looked up, which takes n^2 steps for n bytes. Real tokens have a few dozen.
constexpr std::size_t kMaxTokenBytes = 4096;

std::string unescaped(std::string_view text) {
  std::string result;
  std::size_t at = 0;
  for (std::size_t next; (next = text.find(kEscapedSpace, at)) != text.npos; at = next + kEscapedSpace.size()) {
    result.append(text, at, next - at) += ' ';
  }
  return result.append(text, at);
}

// Pieces have scores below 0; those of control tokens and of tokens that were added are 0 or mean nothing.
bool is_learned_piece(const GgufFile&, const Vocabulary& vocabulary, TokenId id) {
  const std::string_view text = vocabulary.texts[static_cast<std::size_t>(id)];
  if (text.empty() || vocabulary.scores.empty() || !(vocabulary.scores[static_cast<std::size_t>(id)] < 0.0F))
    return false;
  const auto is_piece = [&](std::string_view part) {
    return part.size() == utf8_bytes_from_lead(part[0]) || vocabulary.by_text.find(part) != StringIndex::kNone;
  };
  for (std::size_t cut = 1; cut < text.size(); ++cut) {
    if (is_piece(text.substr(0, cut)) && is_piece(text.substr(cut))) return true;
  }
  return text.size() == utf8_bytes_from_lead(text[0]);
}

class Spm final : public Tokenizer {
 public:
  explicit Spm(Vocabulary&& read) : Tokenizer(std::move(read)), cache_owner_(new_cache_owner()) {
    index_pieces();
    find_merges();
    for (unsigned byte = 0; byte < 256; ++byte) {
      constexpr std::string_view kHexDigits = "0123456789ABCDEF";
      byte_tokens_[byte] = vocabulary().by_text.find(concat("<0x", kHexDigits[byte >> 4], kHexDigits[byte & 15], '>'));
    }
  }

 private:
  void index_pieces();
  void find_merges();
  Symbol symbol_of(std::string_view character) const;
  void encode_fragment(std::string_view text, std::vector<TokenId>& ids) const override;
  void encode_word(std::string_view word, TokenizerScratch& scratch, std::vector<TokenId>& ids) const;
  bool append_bytes(std::string_view character, std::vector<TokenId>& ids) const;

  std::uint32_t cache_owner_;
  // Pieces, by what they spell: the ordinary tokens, and below them, from size() on, single characters that occur in
  // tokens without being one. These merge like tokens, but are no output.
  StringIndex pieces_;
  std::array<Symbol, 128> ascii_ = {};
  MergeTable merges_;
  std::array<TokenId, 256> byte_tokens_ = {};
  bool spaces_only_lead_ = true;  // no token has a space behind another character: texts may be cut before such spaces
};

void Spm::index_pieces() {
  pieces_ = StringIndex(static_cast<std::size_t>(size()) * 2);
  const auto is_piece = [this](TokenId id) {
    // Spaces in a text become U+2581 first, so a token with a true space can match nothing.
    return vocabulary().is_ordinary(id) && !token_text(id).empty() && token_text(id).find(' ') == std::string::npos &&
           first_invalid_utf8(token_text(id)) == token_text(id).size();
  };
  std::vector<TokenId> pieces;
  for (TokenId id = 0; id < size(); ++id) {
    if (!is_piece(id) || token_type(id) == TokenType::UserDefined) continue;  // the latter are matched beforehand
    const std::string_view bytes = token_bytes(id);
    if (bytes.size() > kMaxTokenBytes) {
      fail(vocabulary().file, ": key 'tokenizer.ggml.tokens': found ", bytes.size(), " bytes in token ", id,
           ", expected at most ", kMaxTokenBytes);
    }
    pieces_.insert(bytes, id);
    pieces.push_back(id);
  }
  Symbol next = size();
  for (const TokenId id : pieces) {
    const std::string_view bytes = token_bytes(id);
    for (std::size_t at = 0; at < bytes.size();) {
      const std::string_view character = bytes.substr(at, utf8_bytes_from_lead(bytes[at]));
      if (pieces_.insert(character, next) == next) ++next;
      at += character.size();
      if (character != " " && at < bytes.size() && bytes[at] == ' ') spaces_only_lead_ = false;
    }
  }
  for (unsigned c = 0; c < 128; ++c) {
    const char character = static_cast<char>(c);
    ascii_[c] = pieces_.find({&character, 1});
  }
}

// Two pieces merge where together they are a token. Scores become ranks: the highest score is rank 0.
void Spm::find_merges() {
  std::vector<float> scores = vocabulary().scores;
  std::ranges::sort(scores, std::ranges::greater());
  scores.erase(std::ranges::unique(scores).begin(), scores.end());
  merges_ = MergeTable(static_cast<std::size_t>(size()) * 2);
  for (TokenId id = 0; id < size(); ++id) {
    const std::string_view bytes = token_bytes(id);
    if (bytes.empty() || pieces_.find(bytes) != id) continue;
    const auto place =
        std::ranges::lower_bound(scores, vocabulary().scores[static_cast<std::size_t>(id)], std::ranges::greater());
    const auto rank = static_cast<std::uint32_t>(place - scores.begin());
    for (std::size_t cut = utf8_bytes_from_lead(bytes[0]); cut < bytes.size();
         cut += utf8_bytes_from_lead(bytes[cut])) {
      const Symbol left = pieces_.find(bytes.substr(0, cut));
      const Symbol right = left == kNoSymbol ? kNoSymbol : pieces_.find(bytes.substr(cut));
      if (right != kNoSymbol) merges_.add(left, right, {rank, id});
    }
  }
}

Symbol Spm::symbol_of(std::string_view character) const {
  return character.size() == 1 ? ascii_[static_cast<unsigned char>(character[0])] : pieces_.find(character);
}

void Spm::encode_fragment(std::string_view text, std::vector<TokenId>& ids) const {
  TokenizerScratch& scratch = this_threads_scratch();
  std::string& escaped = scratch.text;
  escaped.clear();
  if (vocabulary().adds_space_prefix) escaped += ' ';
  for (std::size_t at = 0; at < text.size();) {  // U+2581 in a text is the same as a space
    const std::size_t next = std::min(text.find(kEscapedSpace, at), text.size());
    escaped.append(text, at, next - at);
    if (next < text.size()) escaped += ' ';
    at = next + kEscapedSpace.size();
  }
  std::size_t begin = 0;
  while (begin < escaped.size()) {
    std::size_t end = escaped.size();
    if (spaces_only_lead_) {
      const std::size_t letters = escaped.find_first_not_of(' ', begin);
      if (letters != std::string::npos) end = std::min(escaped.find(' ', letters), escaped.size());
    }
    encode_word(std::string_view(escaped).substr(begin, end - begin), scratch, ids);
    begin = end;
  }
}

void Spm::encode_word(std::string_view word, TokenizerScratch& scratch, std::vector<TokenId>& ids) const {
  const std::uint64_t hash = hash_bytes(word);
  const std::span<const TokenId> known = scratch.cache.find(cache_owner_, word, hash);
  if (!known.empty()) {
    ids.insert(ids.end(), known.begin(), known.end());
    return;
  }
  std::vector<Symbol>& symbols = scratch.symbols;
  symbols.clear();
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t bytes = utf8_bytes_from_lead(word[at]);
    symbols.push_back(symbol_of(word.substr(at, bytes)));
    at += bytes;
  }
  merges_.apply(symbols, scratch.merging);
  const std::size_t before = ids.size();
  bool all_known = true;
  std::size_t at = 0;
  for (const Symbol symbol : symbols) {
    if (symbol != kNoSymbol && symbol < size()) {
      ids.push_back(symbol);
      at += token_bytes(symbol).size();
    } else {
      const std::size_t bytes = utf8_bytes_from_lead(word[at]);
      if (!append_bytes(word.substr(at, bytes), ids)) all_known = false;
      at += bytes;
    }
  }
  // What unknown characters become depends on what stands before the word.
  if (all_known) scratch.cache.insert(cache_owner_, word, hash, std::span(ids).subspan(before));
}

// A character without a token: its bytes, or else (false) the unknown token, once for any number of such characters in
// a row.
bool Spm::append_bytes(std::string_view character, std::vector<TokenId>& ids) const {
  if (character == " ") character = kEscapedSpace;
  const auto token = [this](char byte) { return byte_tokens_[static_cast<unsigned char>(byte)]; };
  if (std::ranges::all_of(character, [&](char byte) { return token(byte) != StringIndex::kNone; })) {
    for (const char byte : character) ids.push_back(token(byte));
    return true;
  }
  if (!vocabulary().unknown) {
    fail(vocabulary().file, ": key 'tokenizer.ggml.tokens': found no token for ", quoted(character),
         ", nor for its bytes, and no unknown token, expected one of them");
  }
  if (ids.empty() || ids.back() != *vocabulary().unknown) ids.push_back(*vocabulary().unknown);
  return false;
}

}  // namespace

std::unique_ptr<const Tokenizer> load_spm(const GgufFile& file) {
  Vocabulary vocabulary =
      load_vocabulary(file, {.model = "llama",
                             .text_to_bytes = [](std::string_view text) { return std::optional(unescaped(text)); },
                             .is_spelled = is_learned_piece,
                             .adds_bos = true,
                             .adds_space_prefix = true,
                             .bos = 1,
                             .eos = 2,
                             .unknown = 0});
  if (vocabulary.scores.empty()) vocabulary.scores.assign(vocabulary.texts.size(), 0.0F);
  return std::make_unique<const Spm>(std::move(vocabulary));
}

}  // namespace frspec
