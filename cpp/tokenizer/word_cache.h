// Words that were tokenized lately, with their tokens: a text repeats its words. One per thread, of fixed size, shared
// by all tokenizers; a word whose place is taken replaces what was there.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/merges.h"
#include "tokenizer/string_index.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

class WordCache {
 public:
  WordCache() : entries_(std::size_t{1} << kBits) {}

  // The tokens of `word` for the tokenizer numbered `owner` (not 0); empty where they are not known.
  std::span<const TokenId> find(std::uint32_t owner, std::string_view word, std::uint64_t hash) const {
    const Entry& entry = entries_[hash >> (64 - kBits)];
    const bool same = entry.owner == owner && entry.length == word.size() && same_bytes(entry.word, word);
    return {entry.tokens, same ? entry.count : std::size_t{0}};
  }

  void insert(std::uint32_t owner, std::string_view word, std::uint64_t hash, std::span<const TokenId> tokens) {
    if (word.size() > sizeof(Entry::word) || tokens.size() > kMaxTokens) return;
    Entry& entry = entries_[hash >> (64 - kBits)];
    entry.owner = owner;
    entry.length = static_cast<std::uint8_t>(word.size());
    entry.count = static_cast<std::uint8_t>(tokens.size());
    std::memcpy(entry.word, word.data(), word.size());
    std::memcpy(entry.tokens, tokens.data(), tokens.size_bytes());
  }

 private:
  static constexpr int kBits = 14;
  static constexpr std::size_t kMaxTokens = 6;

  struct alignas(64) Entry {
    TokenId tokens[kMaxTokens];
    std::uint32_t owner = 0;
    std::uint8_t length = 0;
    std::uint8_t count = 0;
    char word[34];
  };
  static_assert(sizeof(Entry) == 64);

  static bool same_bytes(const char* a, std::string_view b) {
    const std::size_t size = b.size();
    const auto differ = [a, &b](std::size_t at, auto word) {
      auto other = word;
      std::memcpy(&word, a + at, sizeof word);
      std::memcpy(&other, b.data() + at, sizeof word);
      return word ^ other;
    };
    if (size > 16) return std::memcmp(a, b.data(), size) == 0;
    if (size >= 8) return (differ(0, std::uint64_t{}) | differ(size - 8, std::uint64_t{})) == 0;
    if (size >= 4) return (differ(0, std::uint32_t{}) | differ(size - 4, std::uint32_t{})) == 0;
    return std::memcmp(a, b.data(), size) == 0;
  }

  std::vector<Entry> entries_;
};

// What a thread keeps between words and between calls.
struct TokenizerScratch {
  WordCache cache;
  MergeScratch merging;
  std::vector<Symbol> symbols;
  std::string text;
};
TokenizerScratch& this_threads_scratch();

// A number for WordCache that no other tokenizer has, until 2^32 of them were made.
std::uint32_t new_cache_owner();

}  // namespace frspec
