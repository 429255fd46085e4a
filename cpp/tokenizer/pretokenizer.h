// Splitting a text into words before byte-level BPE: what the regular expression of a vocabulary does, by hand.
//
// Every kind of splitting is one entry of the table in pretokenizer.cpp: names, one or more passes, and what
// tokenizer.ggml.pre implies beside the splitting. Passes are in word_patterns.h (one alternation, as in the
// expressions of GPT-2 and GPT-4o) and in run_patterns.h (runs of some class of characters stand alone).
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace frspec {

// The end of the first piece of [at, end), which is not empty and valid UTF-8: what follows a piece of [begin, end), or
// all of it. So the pieces of a text are found one after the other; few patterns look at what is before `at`.
using FindPieceEnd = const char* (*)(const char* begin, const char* at, const char* end);

class Pretokenizer {
 public:
  static constexpr std::size_t kMaxPasses = 6;

  std::array<std::string_view, 20> names;            // values of tokenizer.ggml.pre; unused ones are empty
  std::array<FindPieceEnd, kMaxPasses> passes = {};  // each splits the pieces of the one before; unused: null
  bool ignores_merges = false;                       // a whole word that is a token is that token, whatever the merges
  bool adds_bos = false;                             // where the file does not say

  // Calls `emit(std::string_view word)` for the words of `text` (valid UTF-8), which together are the text.
  template <class Emit>
  void split(std::string_view text, Emit&& emit) const {
    if (!text.empty()) split_by(0, text.data(), text.data() + text.size(), emit);
  }

 private:
  template <class Emit>
  void split_by(std::size_t pass, const char* at, const char* end, Emit& emit) const {
    const FindPieceEnd find_piece_end = passes[pass];
    const bool last = pass + 1 == kMaxPasses || passes[pass + 1] == nullptr;
    const char* const begin = at;
    while (at < end) {
      const char* piece_end = find_piece_end(begin, at, end);
      if (last) {
        emit(std::string_view(at, static_cast<std::size_t>(piece_end - at)));
      } else {
        split_by(pass + 1, at, piece_end, emit);
      }
      at = piece_end;
    }
  }
};

// The entry of that name, or null.
const Pretokenizer* find_pretokenizer(std::string_view name);

std::span<const Pretokenizer> all_pretokenizers();

}  // namespace frspec
