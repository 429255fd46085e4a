// Byte-level BPE ("gpt2"): words, their bytes, merges by rank.
#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/merges.h"
#include "tokenizer/models.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/string_index.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_cache.h"

namespace frspec {
namespace {

constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::string_view kPreKey = "tokenizer.ggml.pre";

// Vocabularies write bytes as printable characters: these stand for themselves, and the others, in order, are U+0100
// and what follows.
constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct ByteAlphabet {
  static constexpr std::uint32_t kEnd = 0x144;
  std::array<std::uint32_t, 256> code_point_of = {};
  std::array<std::int16_t, kEnd> byte_of = {};

  constexpr ByteAlphabet() {
    byte_of.fill(-1);
    std::uint32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const std::uint32_t code_point = stands_for_itself(byte) ? byte : next++;
      code_point_of[byte] = code_point;
      byte_of[code_point] = static_cast<std::int16_t>(byte);
    }
  }
};
constexpr ByteAlphabet kAlphabet;

std::optional<std::string> text_to_bytes(std::string_view text) {
  if (first_invalid_utf8(text) != text.size()) return std::nullopt;
  std::string bytes;
  for (std::size_t at = 0; at < text.size();) {
    const Decoded decoded = decode_utf8(text.data() + at);
    if (decoded.code_point >= ByteAlphabet::kEnd || kAlphabet.byte_of[decoded.code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(kAlphabet.byte_of[decoded.code_point]);
    at += decoded.bytes;
  }
  return bytes;
}

std::string byte_text(unsigned byte) {
  const std::uint32_t code_point = kAlphabet.code_point_of[byte];
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

// The two pieces of a merge; the second is empty where it is none. As llama.cpp cuts it: a piece may begin with a
// space.
std::pair<std::string_view, std::string_view> cut_merge(std::string_view merge) {
  const std::size_t space = merge.find(' ', 1);
  if (space == std::string_view::npos) return {merge, {}};
  return {merge.substr(0, space), merge.substr(space + 1)};
}

bool has_merge(const GgufFile& file, const Vocabulary& vocabulary, TokenId id) {
  const std::string_view text = vocabulary.texts[static_cast<std::size_t>(id)];
  if (text.size() <= 2) return true;  // one byte, perhaps
  return std::ranges::any_of(file.get_strings(kMergesKey), [text](std::string_view merge) {
    if (merge.size() != text.size() + 1) return false;
    const auto [left, right] = cut_merge(merge);
    return !right.empty() && text.starts_with(left) && text.ends_with(right);
  });
}

class Bpe final : public Tokenizer {
 public:
  Bpe(const GgufFile& file, Vocabulary&& read, const Pretokenizer& pretokenizer)
      : Tokenizer(std::move(read)), pretokenizer_(pretokenizer), cache_owner_(new_cache_owner()) {
    if (pretokenizer_.ignores_merges) index_words();
    read_merges(file);
    for (unsigned byte = 0; byte < 256; ++byte) {
      const std::string text = byte_text(byte);
      byte_tokens_[byte] = vocabulary().by_text.find(text);
      byte_symbols_[byte] = find_symbol(text);
    }
  }

 private:
  void index_words();
  void read_merges(const GgufFile& file);
  Symbol find_symbol(std::string_view text) const;
  Symbol symbol_of(std::string_view text);
  void encode_fragment(std::string_view text, std::vector<TokenId>& ids) const override;
  void encode_word(std::string_view word, TokenizerScratch& scratch, std::vector<TokenId>& ids) const;
  void merge_word(std::string_view word, TokenizerScratch& scratch) const;
  void spell_loose(std::string_view word, std::vector<Symbol>& symbols) const;
  TokenId byte_token(char byte, std::string_view word) const;

  const Pretokenizer& pretokenizer_;
  std::uint32_t cache_owner_;
  MergeTable merges_;
  StringIndex words_;                          // bytes of the tokens that skip merging
  std::array<TokenId, 256> byte_tokens_ = {};  // the token of each single byte, if any
  std::array<Symbol, 256> byte_symbols_ = {};  // what merges know it by
  // Pieces of merges that are no tokens, as symbols from size() on. They merge like tokens, and what is left of them in
  // the end is spelled in bytes.
  std::deque<std::string> loose_texts_;
  StringIndex loose_;
};

void Bpe::index_words() {
  words_ = StringIndex(static_cast<std::size_t>(size()));
  for (TokenId id = 0; id < size(); ++id) {
    if (vocabulary().is_ordinary(id) && !token_bytes(id).empty()) words_.insert(token_bytes(id), id);
  }
}

Symbol Bpe::find_symbol(std::string_view text) const {
  const TokenId id = vocabulary().by_text.find(text);
  return id != StringIndex::kNone ? id : loose_.find(text);
}

// The symbol of a piece, which is made if need be.
Symbol Bpe::symbol_of(std::string_view text) {
  const Symbol known = find_symbol(text);
  if (known != kNoSymbol) return known;
  const auto added = static_cast<Symbol>(static_cast<std::size_t>(size()) + loose_texts_.size());
  loose_texts_.emplace_back(text);
  return loose_.insert(loose_texts_.back(), added);
}

void Bpe::read_merges(const GgufFile& file) {
  const GgufStrings& merges = file.get_strings(kMergesKey);
  if (merges.size() >= MergeTable::kNoRank) {
    fail(vocabulary().file, ": key '", kMergesKey, "': found ", merges.size(), " merges, expected fewer than 2^32 - 1");
  }
  merges_ = MergeTable(merges.size());
  std::string whole;
  std::vector<std::size_t> useless, loose;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = cut_merge(merges[rank]);
    if (right.empty()) {
      useless.push_back(rank);
      continue;
    }
    whole.assign(left).append(right);
    const std::size_t known = loose_texts_.size();
    const Symbol first = symbol_of(left), second = symbol_of(right);
    // Of a pair that is there twice, the first one counts.
    if (!merges_.add(first, second, {static_cast<std::uint32_t>(rank), symbol_of(whole)})) useless.push_back(rank);
    if (loose_texts_.size() > known) loose.push_back(rank);
  }
  const auto warn = [&](const std::vector<std::size_t>& ranks, std::string_view what, std::string_view consequence) {
    if (ranks.empty()) return;
    file.warn(concat("key '", kMergesKey, "': found ", quoted(merges[ranks.front()]), " as merge ", ranks.front(),
                     ranks.size() == 1 ? std::string() : concat(", and ", ranks.size() - 1, " more like it"), ", ",
                     what, ": ", consequence));
  };
  warn(useless, "expected two pieces with a space between them, and every pair once", "left out");
  warn(loose, "expected two tokens that together are a token", "what is no token is spelled in bytes");
}

void Bpe::encode_fragment(std::string_view text, std::vector<TokenId>& ids) const {
  TokenizerScratch& scratch = this_threads_scratch();
  pretokenizer_.split(text, [&](std::string_view word) { encode_word(word, scratch, ids); });
}

void Bpe::encode_word(std::string_view word, TokenizerScratch& scratch, std::vector<TokenId>& ids) const {
  const std::uint64_t hash = hash_bytes(word);
  const std::span<const TokenId> known = scratch.cache.find(cache_owner_, word, hash);
  if (!known.empty()) {
    ids.insert(ids.end(), known.begin(), known.end());
    return;
  }
  const TokenId whole = pretokenizer_.ignores_merges ? words_.find(word, hash) : StringIndex::kNone;
  if (whole != StringIndex::kNone) {
    scratch.symbols.assign(1, whole);
  } else {
    merge_word(word, scratch);
  }
  scratch.cache.insert(cache_owner_, word, hash, scratch.symbols);
  ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
}

// Leaves the tokens of `word` in scratch.symbols.
void Bpe::merge_word(std::string_view word, TokenizerScratch& scratch) const {
  scratch.symbols.clear();
  for (const char c : word) {
    scratch.symbols.push_back(byte_symbols_[static_cast<unsigned char>(c)]);
  }
  merges_.apply(scratch.symbols, scratch.merging);
  const auto is_token = [this](Symbol symbol) { return symbol != kNoSymbol && symbol < size(); };
  if (!std::ranges::all_of(scratch.symbols, is_token)) spell_loose(word, scratch.symbols);
}

// Puts the tokens of its bytes in the place of every symbol that is no token.
void Bpe::spell_loose(std::string_view word, std::vector<Symbol>& symbols) const {
  std::vector<Symbol> spelled;
  std::size_t at = 0;
  for (const Symbol symbol : symbols) {
    const bool is_token = symbol != kNoSymbol && symbol < size();
    std::size_t bytes = 1;  // of a character that takes part in no merge
    if (symbol != kNoSymbol) {
      bytes = text_to_bytes(is_token ? token_text(symbol) : loose_texts_[static_cast<std::size_t>(symbol - size())])
                  .value()
                  .size();
    }
    if (is_token) {
      spelled.push_back(symbol);
    } else {
      for (const char c : word.substr(at, bytes)) spelled.push_back(byte_token(c, word));
    }
    at += bytes;
  }
  symbols = std::move(spelled);
}

TokenId Bpe::byte_token(char byte, std::string_view word) const {
  const TokenId id = byte_tokens_[static_cast<unsigned char>(byte)];
  if (id != StringIndex::kNone) return id;
  if (vocabulary().unknown) return *vocabulary().unknown;
  fail(vocabulary().file, ": key '", kTokensKey, "': found no token for byte ", static_cast<unsigned char>(byte) + 0,
       " of ", quoted(word), " and no unknown token, expected one of them");
}

}  // namespace

std::unique_ptr<const Tokenizer> load_bpe(const GgufFile& file) {
  std::string_view pre = file.find_string(kPreKey).value_or("");
  if (pre.empty()) {
    pre = "default";
    file.warn(concat("key '", kPreKey,
                     "': found nothing, expected a pre-tokenizer: \"default\" is used, and the text may "
                     "be worse than the model's own pre-tokenizer would make it"));
  }
  const Pretokenizer* pretokenizer = find_pretokenizer(pre);
  if (pretokenizer == nullptr) {
    std::string known;
    for (const Pretokenizer& entry : all_pretokenizers()) {
      for (const std::string_view name : entry.names) {
        if (!name.empty()) known += concat(known.empty() ? "" : ", ", name);
      }
    }
    fail(printable(file.path().string()), ": key '", kPreKey, "': found ", quoted(pre), ", expected one of ", known);
  }
  const std::string_view* name = std::ranges::find(pretokenizer->names, pre);
  Vocabulary vocabulary = load_vocabulary(file, {.model = "gpt2",
                                                 .pre = *name,
                                                 .text_to_bytes = text_to_bytes,
                                                 .is_spelled = has_merge,
                                                 .adds_bos = pretokenizer->adds_bos});
  return std::make_unique<const Bpe>(file, std::move(vocabulary), *pretokenizer);
}

}  // namespace frspec
