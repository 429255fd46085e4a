// Byte-level BPE ("gpt2"): words, their bytes, merges by rank.
#include <algorithm>
#include <array>
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

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
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

class Bpe final : public Tokenizer {
 public:
  Bpe(const GgufFile& file, Vocabulary&& read, const Pretokenizer& pretokenizer)
      : Tokenizer(std::move(read)), pretokenizer_(pretokenizer), cache_owner_(new_cache_owner()) {
    for (unsigned byte = 0; byte < 256; ++byte) byte_symbols_[byte] = vocabulary().by_text.find(byte_text(byte));
    if (pretokenizer_.ignores_merges) index_words();
    read_merges(file);
  }

 private:
  void index_words();
  void read_merges(const GgufFile& file);
  TokenId part_of_merge(std::size_t merge, std::string_view text) const;
  void encode_fragment(std::string_view text, std::vector<TokenId>& ids) const override;
  void encode_word(std::string_view word, TokenizerScratch& scratch, std::vector<TokenId>& ids) const;
  void merge_word(std::string_view word, TokenizerScratch& scratch) const;

  const Pretokenizer& pretokenizer_;
  std::uint32_t cache_owner_;
  MergeTable merges_;
  StringIndex words_;                          // bytes of the tokens that skip merging
  std::array<Symbol, 256> byte_symbols_ = {};  // the token of each single byte
};

void Bpe::index_words() {
  words_ = StringIndex(static_cast<std::size_t>(size()));
  for (TokenId id = 0; id < size(); ++id) {
    if (vocabulary().is_ordinary(id) && !token_bytes(id).empty()) words_.insert(token_bytes(id), id);
  }
}

TokenId Bpe::part_of_merge(std::size_t merge, std::string_view text) const {
  const TokenId id = vocabulary().by_text.find(text);
  if (id == StringIndex::kNone) {
    fail(vocabulary().file, ": key '", kMergesKey, "': found ", quoted(text), " in merge ", merge,
         ", which is no token; expected two tokens that together are a token");
  }
  return id;
}

void Bpe::read_merges(const GgufFile& file) {
  const GgufStrings& merges = file.get_strings(kMergesKey);
  if (merges.size() >= MergeTable::kNoRank) {
    fail(vocabulary().file, ": key '", kMergesKey, "': found ", merges.size(), " merges, expected fewer than 2^32 - 1");
  }
  merges_ = MergeTable(merges.size());
  std::string whole;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view merge = merges[rank];
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size()) {
      fail(vocabulary().file, ": key '", kMergesKey, "': found ", quoted(merge), " as merge ", rank,
           ", expected two tokens with a space between them");
    }
    whole.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    const TokenId left = part_of_merge(rank, merge.substr(0, space));
    const TokenId right = part_of_merge(rank, merge.substr(space + 1));
    if (!merges_.add(left, right, {static_cast<std::uint32_t>(rank), part_of_merge(rank, whole)})) {
      fail(vocabulary().file, ": key '", kMergesKey, "': found ", quoted(merge), " again as merge ", rank,
           ", expected every pair once");
    }
  }
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
    const Symbol symbol = byte_symbols_[static_cast<unsigned char>(c)];
    if (symbol != kNoSymbol) {
      scratch.symbols.push_back(symbol);
    } else if (vocabulary().unknown) {
      scratch.symbols.push_back(*vocabulary().unknown);
    } else {
      fail(vocabulary().file, ": key '", kTokensKey, "': found no token for byte ", static_cast<unsigned char>(c) + 0,
           " of ", quoted(word), " and no unknown token, expected one of them");
    }
  }
  merges_.apply(scratch.symbols, scratch.merging);
}

}  // namespace

std::unique_ptr<const Tokenizer> load_bpe(const GgufFile& file) {
  const std::string_view pre = file.find_string(kPreKey).value_or("default");
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
  Vocabulary vocabulary = load_vocabulary(
      file, {.model = "gpt2", .pre = *name, .text_to_bytes = text_to_bytes, .adds_bos = pretokenizer->adds_bos});
  return std::make_unique<const Bpe>(file, std::move(vocabulary), *pretokenizer);
}

}  // namespace frspec
