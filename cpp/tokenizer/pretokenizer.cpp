// The splitting patterns and the table of pre-tokenizers.
#include "tokenizer/pretokenizer.h"

#include <algorithm>
#include <cstdint>

#include "tokenizer/unicode.h"

namespace frspec {
namespace {

enum class Contractions { None, LowerCase, AnyCase };  // 's 't 're 've 'm 'll 'd

// One alternation, tried from top to bottom at each position:
//   contractions
//   PREFIX? LETTERS+                     LETTERS: \p{L}, with \p{M} where `marks_are_letters`
//   ` ?`\p{N}{1,max_digits}              the space only where words begin with spaces
//   ` ?`[^\s LETTERS \p{N}]+ [\r\n]*     the line ends only where `symbols_take_line_ends`
//   \s*[\r\n]+                           only where `line_ends_alone`
//   \s+(?!\S) | \s+
// PREFIX is a space where `space_begins_words`, else [^\r\n\p{L}\p{N}].
struct WordPattern {
  Contractions contractions = Contractions::AnyCase;
  bool space_begins_words = false;
  bool marks_are_letters = false;
  unsigned max_digits = 0;  // 0: any number
  bool symbols_take_line_ends = true;
  bool line_ends_alone = true;
};

// Pieces are the matches of [classes, ascii]{min,max}, and what lies between them.
struct RunPattern {
  CharClass classes = 0;
  std::string_view ascii = {};
  unsigned min = 1;
  unsigned max = 0;  // 0: any number
};

// The character at `at`; none (no class, no bytes) at the end.
struct Char {
  std::uint32_t code_point = 0;
  std::uint32_t bytes = 0;
  CharClass classes = 0;

  bool is(CharClass wanted) const { return (classes & wanted) != 0; }
  bool is_line_end() const { return code_point == '\r' || code_point == '\n'; }
};

// Most text is ASCII, and one small table is faster than the two of char_class().
constexpr auto kAsciiClasses = [] {
  std::array<CharClass, 128> classes = {};
  for (unsigned c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool whitespace = c == ' ' || (c >= '\t' && c <= '\r');
    const bool symbol = std::string_view("$+<=>^`|~").find(static_cast<char>(c)) != std::string_view::npos;
    classes[c] = letter                 ? kLetter
                 : whitespace           ? kWhitespace
                 : c >= '0' && c <= '9' ? kNumber
                 : symbol               ? kSymbol
                 : c > ' ' && c != 0x7F ? kPunctuation
                                        : CharClass{0};
  }
  return classes;
}();

inline Char char_at(const char* at, const char* end) {
  if (at == end) return {};
  const auto byte = static_cast<unsigned char>(*at);
  if (byte < 0x80) return {byte, 1, kAsciiClasses[byte]};
  const Decoded decoded = decode_utf8(at);
  return {decoded.code_point, decoded.bytes, char_class(decoded.code_point)};
}

// Past the characters from `at` on that satisfy `wanted`.
template <class Wanted>
inline const char* skip_while(const char* at, const char* end, Wanted wanted) {
  while (at < end) {
    const Char c = char_at(at, end);
    if (!wanted(c)) break;
    at += c.bytes;
  }
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
template <WordPattern kPattern>
const char* match_whitespace(const char* at, const char* end) {
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
  if (kPattern.line_ends_alone && after_line_end != nullptr) return after_line_end;
  // Before other text, the last whitespace character is left to what follows, unless it is the only one.
  return next == end || last == at ? next : last;
}

template <WordPattern kPattern>
const char* find_word_end(const char* at, const char* end) {
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
  return match_whitespace<kPattern>(at, end);
}

// End of the run at `at`; `at` itself where none begins.
template <const RunPattern& kPattern>
const char* match_run(const char* at, const char* end) {
  unsigned count = 0;
  const char* run_end = skip_while(at, end, [&count](const Char& c) {
    if (kPattern.max != 0 && count == kPattern.max) return false;
    const bool in_ascii =
        c.code_point < 0x80 && kPattern.ascii.find(static_cast<char>(c.code_point)) != std::string_view::npos;
    if (!in_ascii && !c.is(kPattern.classes)) return false;
    ++count;
    return true;
  });
  return count >= kPattern.min ? run_end : at;
}

template <const RunPattern& kPattern>
const char* find_run_end(const char* at, const char* end) {
  const char* run_end = match_run<kPattern>(at, end);
  if (run_end != at) return run_end;
  do {
    at += decode_utf8(at).bytes;
  } while (at < end && match_run<kPattern>(at, end) == at);
  return at;
}

constexpr RunPattern kEachNumber = {.classes = kNumber, .max = 1};
constexpr RunPattern kThreeNumbers = {.classes = kNumber, .max = 3};
constexpr RunPattern kNumbers = {.classes = kNumber};
constexpr RunPattern kThreeDigits = {.ascii = "0123456789", .min = 3, .max = 3};
constexpr RunPattern kPunctuationRuns = {.classes = kPunctuation, .ascii = "$+<=>^~|"};
constexpr RunPattern kFalconPunctuationRuns = {.classes = kPunctuation, .ascii = "$+<=>^~|`"};

constexpr FindPieceEnd kGpt2 = find_word_end<WordPattern{.contractions = Contractions::LowerCase,
                                                         .space_begins_words = true,
                                                         .symbols_take_line_ends = false,
                                                         .line_ends_alone = false}>;
constexpr FindPieceEnd kLlama3 = find_word_end<WordPattern{.max_digits = 3}>;
constexpr FindPieceEnd kQwen2 = find_word_end<WordPattern{.max_digits = 1}>;
constexpr FindPieceEnd kQwen35 = find_word_end<WordPattern{.marks_are_letters = true, .max_digits = 1}>;
constexpr FindPieceEnd kSeedCoder = find_word_end<WordPattern{.max_digits = 1, .symbols_take_line_ends = false}>;

// "default" comes first: it is what a file without tokenizer.ggml.pre gets.
constexpr Pretokenizer kPretokenizers[] = {
    {.names = {"default"},
     .passes = {find_run_end<kPunctuationRuns>, kGpt2, find_run_end<kNumbers>, find_run_end<kThreeDigits>}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     .passes = {kLlama3},
     .ignores_merges = true,
     .adds_bos = true},
    {.names = {"smaug-bpe", "dbrx", "chatglm-bpe"}, .passes = {kLlama3}},
    {.names = {"glm4", "glm5"}, .passes = {kLlama3}, .ignores_merges = true},
    {.names = {"qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open", "grok-2", "kormo"},
     .passes = {kQwen2}},
    {.names = {"qwen35"}, .passes = {kQwen35}},
    {.names = {"seed-coder"}, .passes = {kSeedCoder}},
    {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "exaone4", "trillion", "granite-docling", "a.x-4.0",
               "mellum"},
     .passes = {kGpt2}},
    {.names = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"},
     .passes = {find_run_end<kEachNumber>, kGpt2}},
    {.names = {"minicpm5"}, .passes = {find_run_end<kThreeNumbers>, kLlama3}, .ignores_merges = true},
    {.names = {"falcon"}, .passes = {find_run_end<kFalconPunctuationRuns>, kGpt2, find_run_end<kThreeDigits>}},
};

}  // namespace

const Pretokenizer* find_pretokenizer(std::string_view name) {
  for (const Pretokenizer& entry : kPretokenizers) {
    if (!name.empty() && std::ranges::find(entry.names, name) != entry.names.end()) return &entry;
  }
  return nullptr;
}

std::span<const Pretokenizer> all_pretokenizers() { return kPretokenizers; }

}  // namespace frspec
