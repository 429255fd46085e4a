// Texts that are tokenized again, piece by piece.
#include <cstddef>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "draft/retokenizer.h"
#include "tokenizer/tokenizer.h"
#include "vocab/alignment.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Tokens = std::vector<TokenId>;

std::vector<std::pair<std::size_t, Tokens>> retokenize(const Tokenizer& target, const Tokenizer& drafter,
                                                       const std::vector<Tokens>& pieces) {
  const VocabularyAlignment alignment(target, drafter);
  Retokenizer retokenizer(target, drafter, alignment);
  retokenizer.begin();
  std::vector<std::pair<std::size_t, Tokens>> result;
  for (const Tokens& piece : pieces) {
    const std::size_t kept = retokenizer.push(piece);
    result.emplace_back(kept, retokenizer.tokens());
  }
  return result;
}

}  // namespace

void init_retokenize(nb::module_& m) {
  m.def("retokenize", &retokenize, "target"_a, "drafter"_a, "pieces"_a,
        "The drafter's tokens for a text that comes in pieces of the target's tokens: after each piece how many of the "
        "tokens before it were kept, and all tokens.");
}

}  // namespace frspec
