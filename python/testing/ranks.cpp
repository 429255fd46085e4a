// Counts, ranks that adapt, ranks of the library, and the GGUF writer.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/error.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "gguf/gguf_writer.h"
#include "vocab/adaptive_ranks.h"
#include "vocab/builtin_ranks.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Tokens = std::vector<TokenId>;

void check_ids(const Tokens& tokens, int vocab) {
  for (const TokenId token : tokens) {
    if (token < 0 || token >= vocab) fail("tokens: found id ", token, ", expected 0 to ", vocab - 1);
  }
}

OutputVector<double> weights_of(const TokenCounts& counts) {
  std::vector<double> weights;
  for (TokenId id = 0; id < counts.vocab(); ++id) weights.push_back(counts.weight(id));
  return to_array<OutputVector<double>>(std::move(weights), {static_cast<std::size_t>(counts.vocab())});
}

void open_ranks(AdaptiveRanks* self, const std::filesystem::path& path,
                const std::shared_ptr<const Tokenizer>& tokenizer, const std::optional<std::filesystem::path>& prior) {
  new (self) AdaptiveRanks(path, tokenizer, prior ? load_ranks(*prior, *tokenizer) : builtin_ranks(*tokenizer));
}

void save(AdaptiveRanks& self, double patience) {
  const WithoutGil released;
  self.save(std::chrono::milliseconds(static_cast<std::int64_t>(1000.0 * patience)));
}

void write_gguf(const std::filesystem::path& path, const std::filesystem::path& temporary,
                const std::string& architecture, const nb::dict& numbers, const nb::dict& strings,
                const nb::dict& vectors) {
  GgufWriter writer(architecture);
  for (const auto& [key, value] : numbers) {
    const auto number = nb::cast<std::uint64_t>(value);
    if (number <= 0xffff'ffffu) {
      writer.add(nb::cast<std::string>(key), static_cast<std::uint32_t>(number));
    } else {
      writer.add(nb::cast<std::string>(key), number);
    }
  }
  for (const auto& [key, value] : strings) writer.add(nb::cast<std::string>(key), nb::cast<std::string>(value));
  std::vector<std::vector<std::int32_t>> small;
  std::vector<std::vector<std::int64_t>> large;
  small.reserve(vectors.size());
  large.reserve(vectors.size());
  for (const auto& [name, values] : vectors) {
    const auto numbers_of = nb::cast<std::vector<std::int64_t>>(values);
    const auto fits = [](std::int64_t n) { return n == static_cast<std::int32_t>(n); };
    if (std::all_of(numbers_of.begin(), numbers_of.end(), fits)) {
      small.emplace_back(numbers_of.begin(), numbers_of.end());
      writer.add_tensor(nb::cast<std::string>(name), small.back());
    } else {
      large.push_back(numbers_of);
      writer.add_tensor(nb::cast<std::string>(name), large.back());
    }
  }
  writer.write(path, temporary);
}

}  // namespace

void init_ranks(nb::module_& m) {
  nb::class_<TokenCounts>(m, "TokenCounts", "How often tokens occur, what is new counting more than what is old.")
      .def(nb::init<int, std::int64_t>(), "vocab"_a, "half_life"_a = kHalfLife)
      .def(
          "add",
          [](TokenCounts& self, const Tokens& tokens) {
            check_ids(tokens, self.vocab());
            self.add(tokens);
          },
          "tokens"_a, "The tokens occurred once each, in this order.")
      .def(
          "add_prior",
          [](TokenCounts& self, const std::vector<double>& counts, double tokens) {
            if (counts.size() != static_cast<std::size_t>(self.vocab())) {
              fail("counts: found ", counts.size(), ", expected ", self.vocab());
            }
            self.add_prior(counts, tokens);
          },
          "counts"_a, "tokens"_a, "As if so many tokens had just occurred in these proportions.")
      .def("add_later", &TokenCounts::add_later, "others"_a, "Adds what others have counted since.")
      .def("best", &TokenCounts::best, "n"_a, "The tokens of the largest weights, best first.")
      .def_prop_ro("weights", &weights_of, nb::rv_policy::move, "(vocab) float64: a token that occurs now weighs 1.")
      .def_prop_ro("counted", &TokenCounts::counted, "Tokens, ever.");

  nb::class_<AdaptiveRanks>(m, "AdaptiveRanks", "Counts that are kept in a ranks file, by several processes at once.")
      .def("__init__", &open_ranks, "path"_a, "tokenizer"_a, "prior"_a = nb::none(),
           nb::sig("def __init__(self, path: str | os.PathLike[str], tokenizer: Tokenizer, "
                   "prior: str | os.PathLike[str] | None = None) -> None"),
           "``prior``: a ranks file to begin with, where there is none at ``path``.")
      .def(
          "add",
          [](AdaptiveRanks& self, const Tokens& tokens) {
            check_ids(tokens, self.tokenizer().size());
            self.add(tokens);
          },
          "tokens"_a, "The tokens occurred once each.")
      .def("save", &save, "patience"_a = 10.0,
           "Brings what is new to the file, and here what others have written. Waits so many seconds for them.")
      .def(
          "best", [](const AdaptiveRanks& self, int n) { return self.counts().best(n); }, "n"_a,
          "The tokens of the largest weights, best first.")
      .def_prop_ro("unsaved", &AdaptiveRanks::unsaved, "Tokens that the file does not know.")
      .def_prop_ro(
          "counted", [](const AdaptiveRanks& self) { return self.counts().counted(); }, "Tokens, ever.")
      .def_prop_ro(
          "weights", [](const AdaptiveRanks& self) { return weights_of(self.counts()); }, nb::rv_policy::move,
          "(vocab) float64: a token that occurs now weighs 1.");

  nb::class_<AdaptiveRows>(m, "AdaptiveRows", "Which rows of a ranked head make room for which.")
      .def(
          "__init__",
          [](AdaptiveRows* self, std::shared_ptr<AdaptiveRanks> ranks, const std::vector<std::int32_t>& rows,
             std::vector<std::int32_t> row_of_token, const std::vector<int>& sizes) {
            new (self) AdaptiveRows(std::move(ranks), rows, std::move(row_of_token), sizes);
          },
          "ranks"_a, "rows"_a, "row_of_token"_a, "sizes"_a = std::vector<int>{},
          nb::sig("def __init__(self, ranks: AdaptiveRanks, rows: Sequence[int], row_of_token: Sequence[int], "
                  "sizes: Sequence[int] = ()) -> None"))
      .def(
          "update",
          [](AdaptiveRows& self) {
            nb::list changes;
            for (const auto& [place, old_row, row] : self.update()) changes.append(nb::make_tuple(place, old_row, row));
            return changes;
          },
          nb::sig("def update(self) -> list[tuple[int, int, int]]"), "Changes: place, old row, new row.")
      .def_ro_static("most_replaced", &AdaptiveRows::kMostReplaced, "Changes at once, at most.");

  m.def("ordinary_fingerprint", &ordinary_fingerprint, "tokenizer"_a,
        "16 hex digits for what a vocabulary's ordinary tokens are, whatever is special or padding.");
  m.def(
      "builtin_ranks",
      [](const Tokenizer& tokenizer) {
        TokenRanks ranks = builtin_ranks(tokenizer);
        return std::make_pair(std::move(ranks.source), std::move(ranks.ids));
      },
      "tokenizer"_a, "Where the ranks of a vocabulary come from that no file ranks, and all its tokens in that order.");
  m.def("write_gguf", &write_gguf, "path"_a, "temporary"_a, "architecture"_a, "numbers"_a, "strings"_a, "vectors"_a,
        nb::sig("def write_gguf(path: str | os.PathLike[str], temporary: str | os.PathLike[str], architecture: str, "
                "numbers: dict[str, int], strings: dict[str, str], vectors: dict[str, list[int]]) -> None"),
        "Writes a GGUF file whole or not at all. Numbers that fit 32 bits are written so.");
}

}  // namespace frspec
