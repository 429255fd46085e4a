// The library's own ranks: builtin_ranks.bin, made by scripts/pack_ranks.py.
//
// It is a sequence of vocabularies. Each is the 8 bytes of its fingerprint, the number of its ranked tokens, the number
// of bytes that follow, and in these the tokens' ids. Ranks are cut into runs, each an eighth of what stands before it,
// at least kShortestRun; within one, ids ascend, and what is stored is the distance to the next. So a rank costs little
// more than a byte, and is off by an eighth at most. Numbers have seven bits a byte, the lowest first; the highest bit
// says that more follow.
#include "vocab/builtin_ranks.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "base/hash.h"

// The assembler puts the file into the read-only data: there is nothing to be found at run time.
asm(".pushsection .rodata\n"
    ".global frspec_builtin_ranks\n.hidden frspec_builtin_ranks\n"
    ".global frspec_builtin_ranks_end\n.hidden frspec_builtin_ranks_end\n"
    "frspec_builtin_ranks:\n.incbin \"" FRSPEC_BUILTIN_RANKS
    "\"\n"
    "frspec_builtin_ranks_end:\n"
    ".popsection\n");

extern "C" {
extern const unsigned char frspec_builtin_ranks[];
extern const unsigned char frspec_builtin_ranks_end[];
}

namespace frspec {
namespace {

constexpr std::size_t kShortestRun = 64;

class Reader {
 public:
  explicit Reader(const unsigned char* at) : at_(at) {}

  const unsigned char* at() const { return at_; }
  std::string fingerprint() {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value |= std::uint64_t{*at_++} << (8 * i);
    return hex_digits(value);
  }
  std::size_t number() {
    std::size_t value = 0;
    for (int shift = 0;; shift += 7) {
      const unsigned char byte = *at_++;
      value |= std::size_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  }

 private:
  const unsigned char* at_;
};

std::vector<TokenId> unpack(Reader packed, std::size_t count) {
  std::vector<TokenId> ids;
  ids.reserve(count);
  while (ids.size() < count) {
    const std::size_t end = std::min(count, ids.size() + std::max(kShortestRun, ids.size() / 8));
    for (TokenId id = 0; ids.size() < end;) {
      id += static_cast<TokenId>(packed.number());
      ids.push_back(id);
    }
  }
  return ids;
}

// The ranked tokens of a vocabulary; none where it is not among them.
std::vector<TokenId> find_packed(const Tokenizer& vocabulary) {
  const std::string wanted = ordinary_fingerprint(vocabulary);
  for (Reader packed(frspec_builtin_ranks); packed.at() < frspec_builtin_ranks_end;) {
    const bool found = packed.fingerprint() == wanted;
    const std::size_t count = packed.number(), bytes = packed.number();
    if (found) return unpack(packed, count);
    packed = Reader(packed.at() + bytes);
  }
  return {};
}

bool looks_special(std::string_view text) {
  return (text.starts_with('<') && text.ends_with('>')) || (text.starts_with('[') && text.ends_with(']'));
}

// Whether a token spells one character of ASCII. SPM puts characters behind everything that is built of them.
bool spells_ascii(const Tokenizer& vocabulary, TokenId id) {
  const std::string& bytes = vocabulary.token_bytes(id);
  return bytes.size() == 1 && static_cast<unsigned char>(bytes[0]) < 0x80;
}

bool is_written(TokenType type) {
  return type == TokenType::Normal || type == TokenType::UserDefined || type == TokenType::Undefined;
}

}  // namespace

std::string ordinary_fingerprint(const Tokenizer& vocabulary) {
  Fnv1a64 hash;
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.token_text(id);
    if (vocabulary.token_type(id) != TokenType::Normal || looks_special(text)) continue;
    hash.add(std::to_string(id));
    hash.add(" ");
    hash.add(text);
    hash.add(std::string_view("\0", 1));
  }
  return hash.text();
}

TokenRanks builtin_ranks(const Tokenizer& vocabulary) {
  TokenRanks ranks{.file = "the library's own list", .ids = find_packed(vocabulary)};
  // What the fingerprint does not tell of: a fine-tune may have made something else of a special token.
  std::erase_if(ranks.ids,
                [&](TokenId id) { return id >= vocabulary.size() || vocabulary.token_type(id) == TokenType::Control; });
  const bool by_score = vocabulary.model() == "llama";
  ranks.source = !ranks.ids.empty() ? "built-in" : by_score ? "scores" : "merges";
  std::vector<bool> is_ranked(static_cast<std::size_t>(vocabulary.size()), false);
  for (const TokenId id : ranks.ids) is_ranked[static_cast<std::size_t>(id)] = true;
  // What is not ranked follows in the order in which the vocabulary was built. Characters first; then what may come out
  // of a text, by score, or in the order of merges, which is that of the ids; then single bytes and padding.
  struct Place {
    int group;
    float score;
    TokenId id;
  };
  std::vector<Place> others;
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const TokenType type = vocabulary.token_type(id);
    if (is_ranked[static_cast<std::size_t>(id)] || type == TokenType::Control) continue;
    const int group = spells_ascii(vocabulary, id) ? 0 : is_written(type) ? 1 : 2;
    others.push_back({group, by_score && group == 1 ? vocabulary.score(id) : 0.0F, id});
  }
  std::stable_sort(others.begin(), others.end(), [](const Place& a, const Place& b) {
    return a.group != b.group ? a.group < b.group : a.score > b.score;
  });
  for (const Place& place : others) ranks.ids.push_back(place.id);
  return ranks;
}

}  // namespace frspec
