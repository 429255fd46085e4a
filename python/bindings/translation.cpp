// Aligned vocabularies and retokenized texts, for tests and for looking at a pair.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "draft/retokenizer.h"
#include "tokenizer/tokenizer.h"
#include "vocab/alignment.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Tokens = std::vector<TokenId>;

Tokens align(const Tokenizer& target, const Tokenizer& drafter) {
  const VocabularyAlignment alignment(target, drafter);
  Tokens result;
  for (TokenId id = 0; id < target.size(); ++id) result.push_back(alignment.to_drafter(id));
  return result;
}

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

void init_translation(nb::module_& m) {
  m.def("align_vocabularies", &align, "target"_a, "drafter"_a,
        "For each token of the target's vocabulary the drafter's token that spells the same or has the same role, or "
        "-1.");
  m.def(
      "same_vocabulary",
      [](const Tokenizer& target, const Tokenizer& drafter) {
        return VocabularyAlignment(target, drafter).is_identity();
      },
      "target"_a, "drafter"_a, "Whether both have the same ids for the same tokens, padding aside.");
  m.def("retokenize", &retokenize, "target"_a, "drafter"_a, "pieces"_a,
        "The drafter's tokens for a text that comes in pieces of the target's tokens: after each piece how many of the "
        "tokens before it were kept, and all tokens.");
}

}  // namespace frspec
