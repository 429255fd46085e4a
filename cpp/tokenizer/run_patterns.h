// Splitting patterns of runs: characters of some kind stand alone, and what lies between them is a piece, too. Each is
// a FindPieceEnd (pretokenizer.h).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "tokenizer/word_patterns.h"

namespace frspec {

struct CodePoints {
  std::uint32_t first, last;
};

// Pieces are the matches of SPACE?[classes, ascii, ranges]{min,max}, and what lies between them. With `others`, of
// [^classes, ascii, ranges]. SPACE: none, a space, or any whitespace.
struct RunPattern {
  enum class Before { Nothing, Space, Whitespace };

  CharClass classes = 0;
  std::string_view ascii = {};
  std::span<const CodePoints> ranges = {};  // ascending
  bool others = false;
  unsigned min = 1;
  unsigned max = 0;  // 0: any number
  Before before = Before::Nothing;

  bool holds(const Char& c) const {
    bool found = c.is(classes);
    if (c.code_point < 0x80) {
      found |= ascii.find(static_cast<char>(c.code_point)) != std::string_view::npos;
    } else if (!ranges.empty()) {
      // The first range that does not end before it.
      std::size_t low = 0, high = ranges.size();
      while (low < high) {
        const std::size_t middle = (low + high) / 2;
        (ranges[middle].last < c.code_point ? low : high) = ranges[middle].last < c.code_point ? middle + 1 : middle;
      }
      found |= low < ranges.size() && ranges[low].first <= c.code_point;
    }
    return found != others;
  }
};

// End of the run at `at`; `at` itself where none begins.
template <const RunPattern& kPattern>
const char* match_run(const char* at, const char* end) {
  unsigned count = 0;
  const char* run = at;
  if constexpr (kPattern.before != RunPattern::Before::Nothing) {
    const Char first = char_at(at, end);
    if (kPattern.before == RunPattern::Before::Space ? first.code_point == ' ' : first.is(kWhitespace)) {
      run += first.bytes;
      // Whitespace may be part of the run itself.
      if (run == end || !kPattern.holds(char_at(run, end))) run = at;
    }
  }
  const char* run_end = skip_while(run, end, [&count](const Char& c) {
    if (kPattern.max != 0 && count == kPattern.max) return false;
    if (!kPattern.holds(c)) return false;
    ++count;
    return true;
  });
  return count >= kPattern.min ? run_end : at;
}

template <const RunPattern& kPattern>
const char* find_run_end(const char*, const char* at, const char* end) {
  return find_match_or_gap(at, end, match_run<kPattern>);
}

// \s+$
inline const char* find_trailing_space(const char*, const char* at, const char* end) {
  const char* text_end = at;
  for (const char* next = at; next < end;) {
    const Char c = char_at(next, end);
    next += c.bytes;
    if (!c.is(kWhitespace)) text_end = next;
  }
  return text_end == at ? end : text_end;
}

// Chameleon's names of things, and its indentation:
//   <sentinel:[0-9]+> | IMGIMG[A-I]{1,4}Z | [\t\n] | SPACE{4} | SPACE{2}
inline const char* match_chameleon(const char* at, const char* end) {
  const std::string_view text(at, static_cast<std::size_t>(end - at));
  const auto named = [&](std::string_view head, char first, char last, std::size_t most, char tail) {
    if (!text.starts_with(head)) return at;
    std::size_t i = head.size();
    while (i < text.size() && i - head.size() < most && text[i] >= first && text[i] <= last) ++i;
    return i > head.size() && i < text.size() && text[i] == tail ? at + i + 1 : at;
  };
  switch (*at) {
    case '<':
      return named("<sentinel:", '0', '9', text.size(), '>');
    case 'I':
      return named("IMGIMG", 'A', 'I', 4, 'Z');
    case '\t':
    case '\n':
      return at + 1;
    default:
      return at + (text.starts_with("    ") ? 4 : text.starts_with("  ") ? 2 : 0);
  }
}
inline const char* find_chameleon_end(const char*, const char* at, const char* end) {
  return find_match_or_gap(at, end, match_chameleon);
}

// Runs of digits in threes from the right, the first piece of a run being what is left over.
//   Numbers   of \p{N}; runs stand alone
//   Digits    \d{1,3}(?=(?:\d{3})*\b): as that, but nothing in runs that a letter follows
//   Cuts      (?=(\d{3})+(?!\d)): nothing stands alone, texts are cut before each three
enum class Threes { Numbers, Digits, Cuts };

template <Threes kThrees>
const char* find_three_end(const char* begin, const char* at, const char* end) {
  constexpr CharClass kOne = kThrees == Threes::Numbers ? kNumber : kDigit;
  const auto digits = [end](const char* from, std::size_t count) {
    for (; count > 0; --count) from += char_at(from, end).bytes;
    return from;
  };
  const char* const piece = at;
  // Behind a digit, a piece can only begin where threes are left.
  if (at > begin && char_at(at, end).is(kOne) && char_before(begin, at).is(kOne)) {
    at = digits(at, 3);
    if (kThrees != Threes::Cuts || at == end || char_at(at, end).is(kOne)) return at;
  }
  for (const char* next = at; next < end;) {
    if (!char_at(next, end).is(kOne)) {
      next += char_at(next, end).bytes;
      continue;
    }
    std::size_t count = 0;
    const char* run_end = skip_while(next, end, [&count](const Char& c) { return c.is(kOne) && ++count > 0; });
    const bool is_split = kThrees == Threes::Numbers  ? true
                          : kThrees == Threes::Digits ? !char_at(run_end, end).is(kWordCharacter)
                                                      : count >= 3;
    if (is_split) {
      const bool is_first = next == piece;
      const std::size_t rest = count % 3;
      if constexpr (kThrees == Threes::Cuts) {
        if (rest > 0 || !is_first) return digits(next, rest);
        if (count > 3) return digits(next, 3);
      } else {
        return is_first ? digits(next, rest > 0 ? rest : 3) : next;
      }
    }
    next = run_end;
  }
  return end;
}

}  // namespace frspec
