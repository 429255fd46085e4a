// Splitting patterns that are one alternation, by hand: the families of GPT-2, GPT-4o, DeepSeek-V3 and EXAONE MoE.
// Each is a FindPieceEnd (pretokenizer.h).
#pragma once

#include <cstdint>

#include "tokenizer/characters.h"

namespace frspec {

enum class Contractions { None, LowerCase, AnyCase };  // 's 't 're 've 'm 'll 'd

enum class Spaces { Runs, Halves };

// One alternation, tried from top to bottom at each position:
//   contractions
//   PREFIX? LETTERS+                     LETTERS: \p{L}, with \p{M} where `marks_are_letters`
//   ` ?`\p{N}{1,max_digits}              the space only where words begin with spaces
//   ` ?`[^\s LETTERS \p{N}]+ [\r\n]*     the line ends only where `symbols_take_line_ends`
//   \s*[\r\n]+                           only where `line_ends_alone`
//   \s+(?!\S) | \s+                     Spaces::Halves: \s{512}(?!\S) | \s{256}(?!\S) | .. | \s{1,2}(?!\S) | \s
// PREFIX is a space where `space_begins_words`, else [^\r\n\p{L}\p{N}].
struct WordPattern {
  Contractions contractions = Contractions::AnyCase;
  bool space_begins_words = false;
  bool marks_are_letters = false;
  unsigned max_digits = 0;  // 0: any number
  bool symbols_take_line_ends = true;
  bool line_ends_alone = true;
  Spaces spaces = Spaces::Runs;
};

// The end of what `match` finds at `at`; where that is nothing, the place where it would find something, or the end.
template <class Match>
const char* find_match_or_gap(const char* at, const char* end, Match match) {
  const char* match_end = match(at, end);
  if (match_end != at) return match_end;
  do {
    at += decode_utf8(at).bytes;
  } while (at < end && match(at, end) == at);
  return at;
}

template <Contractions kCase>
std::uint32_t fold(std::uint32_t code_point) {
  if constexpr (kCase == Contractions::AnyCase) {
    if (code_point >= 'A' && code_point <= 'Z') return code_point + ('a' - 'A');
    if (code_point == 0x17F) return 's';  // the long s: the one other character that case folding makes one of these
  }
  return code_point;
}

// End of the contraction at `at`, which is an apostrophe; `at` itself where there is none.
template <Contractions kCase>
const char* match_contraction(const char* at, const char* end) {
  const Char first = char_at(at + 1, end);
  const std::uint32_t a = fold<kCase>(first.code_point);
  const char* after_first = at + 1 + first.bytes;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return after_first;
  if (a != 'r' && a != 'v' && a != 'l') return at;
  const Char second = char_at(after_first, end);
  const std::uint32_t b = fold<kCase>(second.code_point);
  return b == (a == 'l' ? 'l' : 'e') ? after_first + second.bytes : at;
}

// The whitespace alternatives; `at` is at whitespace.
template <Spaces kSpaces = Spaces::Runs>
const char* match_whitespace(const char* at, const char* end, bool line_ends_alone) {
  const char* last = at;  // beginning of the last whitespace character
  const char* after_line_end = nullptr;
  const char* next = at;
  while (next < end) {
    const Char c = char_at(next, end);
    if (!c.is(kWhitespace)) break;
    last = next;
    next += c.bytes;
    if (c.is_line_end()) after_line_end = next;
  }
  if (line_ends_alone && after_line_end != nullptr) return after_line_end;
  // Before other text, the last whitespace character is left to what follows, unless it is the only one.
  const char* rest = next == end || last == at ? next : last;
  if constexpr (kSpaces == Spaces::Halves) {
    unsigned left = 0;
    for (const char* space = at; space < rest && left < 512; ++left) space += decode_utf8(space).bytes;
    unsigned taken = left <= 2 ? left : 512;  // the largest power of two
    while (taken > left) taken /= 2;
    for (rest = at; taken > 0; --taken) rest += decode_utf8(rest).bytes;
  }
  return rest;
}

template <WordPattern kPattern>
const char* find_word_end(const char*, const char* at, const char* end) {
  constexpr CharClass kLetters = kPattern.marks_are_letters ? kLetter | kMark : kLetter;
  constexpr auto is_letter = [](const Char& c) { return c.is(kLetters); };
  constexpr auto is_symbol = [](const Char& c) { return !c.is(kWhitespace | kLetters | kNumber); };
  const Char first = char_at(at, end);
  const char* const second = at + first.bytes;
  if (first.is(kLetters)) return skip_while(second, end, is_letter);
  if (kPattern.contractions != Contractions::None && first.code_point == '\'') {
    const char* contraction = match_contraction<kPattern.contractions>(at, end);
    if (contraction != at) return contraction;
  }
  const Char next = char_at(second, end);
  const bool may_begin_word =
      kPattern.space_begins_words ? first.code_point == ' ' : !first.is_line_end() && !first.is(kNumber);
  if (may_begin_word && next.is(kLetters)) return skip_while(second + next.bytes, end, is_letter);

  const bool after_space = first.code_point == ' ' && next.bytes != 0;
  const bool space_counts = after_space && kPattern.space_begins_words;
  if ((space_counts ? next : first).is(kNumber)) {
    const char* digits = space_counts ? second : at;
    unsigned count = 0;
    return skip_while(digits, end, [&count](const Char& c) {
      return c.is(kNumber) && (kPattern.max_digits == 0 || count++ < kPattern.max_digits);
    });
  }
  if (is_symbol(after_space ? next : first)) {
    const char* symbols_end = skip_while(second, end, is_symbol);
    if (!kPattern.symbols_take_line_ends) return symbols_end;
    return skip_while(symbols_end, end, [](const Char& c) { return c.is_line_end(); });
  }
  return match_whitespace<kPattern.spaces>(at, end, kPattern.line_ends_alone);
}

// The family that began with GPT-4o's: words end where small letters are followed by a capital. At each position:
//   PREFIX? U* W+ CONTRACTION? | PREFIX? U+ W* CONTRACTION?
//                           U: [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W: [\p{Ll}\p{Lm}\p{Lo}\p{M}], PREFIX: [^\r\n\p{L}\p{N}]
//   \p{N}{1,max_digits}
//   ` ?`[^\s\p{L}\p{N}]+ [\r\n/]*       the slash only where `slashes`
//   \s*[\r\n]+ | \s+(?!\S) | \s+
// Where `han_apart`, runs of \p{Han} come first, and no letter of U and W is one.
struct CasedPattern {
  unsigned max_digits = 3;
  bool contractions = true;
  bool slashes = true;
  bool han_apart = false;
};

// The script Han, of Unicode 16.0.
inline bool is_han(std::uint32_t c) {
  constexpr std::uint32_t kRanges[][2] = {
      {0x2E80, 0x2E99},   {0x2E9B, 0x2EF3},   {0x2F00, 0x2FD5},   {0x3005, 0x3005},   {0x3007, 0x3007},
      {0x3021, 0x3029},   {0x3038, 0x303B},   {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFA6D},
      {0xFA70, 0xFAD9},   {0x16FE2, 0x16FE3}, {0x16FF0, 0x16FF1}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B739},
      {0x2B740, 0x2B81D}, {0x2B820, 0x2CEA1}, {0x2CEB0, 0x2EBE0}, {0x2EBF0, 0x2EE5D}, {0x2F800, 0x2FA1D},
      {0x30000, 0x3134A}, {0x31350, 0x323AF}};
  if (c < kRanges[0][0]) return false;
  for (const auto& [first, last] : kRanges) {
    if (c <= last) return c >= first;
  }
  return false;
}

template <CasedPattern kPattern>
const char* find_cased_end(const char*, const char* at, const char* end) {
  static constexpr auto is_word = [](const Char& c) {
    return c.is(kLetter | kMark) && !(kPattern.han_apart && is_han(c.code_point));
  };
  static constexpr auto is_upper = [](const Char& c) { return !c.is(kLower) && is_word(c); };
  static constexpr auto is_lower = [](const Char& c) { return !c.is(kUpper) && is_word(c); };
  const Char first = char_at(at, end);
  if (kPattern.han_apart && is_han(first.code_point)) {
    return skip_while(at, end, [](const Char& c) { return is_han(c.code_point); });
  }
  const bool has_prefix = !first.is_line_end() && !first.is(kLetter | kNumber);
  const char* const starts[] = {has_prefix ? at + first.bytes : at, at};
  const char* word_end = nullptr;
  for (int alternative = 0; alternative < 2 && word_end == nullptr; ++alternative) {
    for (int i = has_prefix ? 0 : 1; i < 2 && word_end == nullptr; ++i) {
      const char* behind_both = nullptr;  // the last character of the run that is in W, too
      const char* upper_end = skip_while(starts[i], end, is_upper);
      for (const char* c = starts[i]; c < upper_end;) {
        const Char next = char_at(c, end);
        c += next.bytes;
        if (is_lower(next)) behind_both = c;
      }
      const char* lower_end = skip_while(upper_end, end, is_lower);
      if (alternative == 0) {
        word_end = lower_end > upper_end ? lower_end : behind_both;
      } else if (upper_end > starts[i]) {
        word_end = upper_end;
      }
    }
  }
  if (word_end != nullptr) {
    const bool has_apostrophe = kPattern.contractions && word_end < end && *word_end == '\'';
    return has_apostrophe ? match_contraction<Contractions::AnyCase>(word_end, end) : word_end;
  }
  if (first.is(kNumber)) {
    unsigned count = 0;
    return skip_while(at, end, [&count](const Char& c) { return c.is(kNumber) && count++ < kPattern.max_digits; });
  }
  constexpr auto is_symbol = [](const Char& c) { return !c.is(kWhitespace | kLetter | kNumber); };
  const Char second = char_at(at + first.bytes, end);
  const bool after_space = first.code_point == ' ' && second.bytes != 0;
  if (is_symbol(after_space ? second : first)) {
    const char* symbols_end = skip_while(at + first.bytes, end, is_symbol);
    return skip_while(symbols_end, end,
                      [](const Char& c) { return c.is_line_end() || (kPattern.slashes && c.code_point == '/'); });
  }
  return match_whitespace(at, end, true);
}

// DeepSeek-V3's. What no alternative matches is a piece up to where one does.
//   [!-/:-~][A-Za-z]+                       an ASCII character of \p{P} or \p{S}
//   [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
//   ` ?`[\p{P}\p{S}]+ [\r\n]*               Spark: without the line ends
//   \s*[\r\n]+                             Spark: [\r\n]
//   \s+(?!\S) | \s+
template <bool kSpark>
const char* match_punctuated(const char* at, const char* end) {
  constexpr auto is_letter = [](const Char& c) { return c.is(kLetter | kMark); };
  constexpr auto is_symbol = [](const Char& c) { return c.is(kPunctuation | kSymbol); };
  constexpr auto is_ascii_letter = [](const Char& c) { return c.code_point < 0x80 && c.is(kLetter); };
  const Char first = char_at(at, end);
  const char* const second = at + first.bytes;
  const Char next = char_at(second, end);
  if (first.code_point < 0x80 && is_symbol(first) && is_ascii_letter(next)) {
    return skip_while(second, end, is_ascii_letter);
  }
  if (is_letter(first)) return skip_while(second, end, is_letter);
  if (!first.is_line_end() && !is_symbol(first) && is_letter(next)) return skip_while(second, end, is_letter);
  if (is_symbol(first) || (first.code_point == ' ' && is_symbol(next))) {
    const char* symbols_end = skip_while(second, end, is_symbol);
    if (kSpark) return symbols_end;
    return skip_while(symbols_end, end, [](const Char& c) { return c.is_line_end(); });
  }
  if (kSpark && first.is_line_end()) return second;
  return first.is(kWhitespace) ? match_whitespace(at, end, !kSpark) : at;
}
template <bool kSpark>
const char* find_punctuated_end(const char*, const char* at, const char* end) {
  return find_match_or_gap(at, end, match_punctuated<kSpark>);
}

// EXAONE MoE's: words may go on behind a single space.
//   contractions
//   [^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+
//   \p{N}
//   ` ?`[^\s\p{L}\p{N}]+[\r\n/]?
//   \s*[\r\n] | \s+(?!\S) | \s+
inline const char* find_phrase_end(const char* begin, const char* at, const char* end) {
  const Char first = char_at(at, end);
  const bool has_prefix = !first.is_line_end() && !first.is(kLetter | kNumber);
  const char* next = has_prefix ? at + first.bytes : at;
  if (first.code_point == '\'') {
    const char* contraction = match_contraction<Contractions::AnyCase>(at, end);
    if (contraction != at) return contraction;
  }
  if (char_at(next, end).is(kLetter)) {
    while (true) {
      next = skip_while(next, end, [](const Char& c) { return c.is(kLetter | kMark); });
      if (next == end || *next != ' ' || !char_at(next + 1, end).is(kLetter)) return next;
      ++next;
    }
  }
  constexpr WordPattern kRest = {.max_digits = 1, .symbols_take_line_ends = false};
  const char* rest_end = find_word_end<kRest>(begin, at, end);
  const bool is_symbols = !char_before(at, rest_end).is(kWhitespace | kNumber);
  return is_symbols && rest_end < end && char_at(rest_end, end).is_line_end() ? rest_end + 1 : rest_end;
}

}  // namespace frspec
