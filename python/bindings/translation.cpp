// Aligned vocabularies, for looking at a pair.
#include <cstdint>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

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
}

}  // namespace frspec
