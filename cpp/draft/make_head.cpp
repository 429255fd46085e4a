#include "draft/make_head.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "base/error.h"
#include "vocab/adaptive_ranks.h"
#include "vocab/choice_head.h"
#include "vocab/contextual_head.h"
#include "vocab/sketch.h"
#include "vocab/speculated_head.h"

namespace frspec {
namespace {

using Kind = HeadSpec::Kind;

constexpr int kMostBest = 256;  // tokens that are asked of a state at once: a branch of a tree, a proposal

TokenRanks ranks_of(const DraftOptions& options, const HeadParts& parts) {
  TokenRanks ranks =
      parts.adaptive ? parts.adaptive->ranks() : find_ranks(options.ranks, *parts.file, parts.vocabulary);
  if (parts.ranks_source != nullptr) *parts.ranks_source = ranks.source;
  return ranks;
}

// What makes `chosen` rows of a ranked head follow the ranks, where they adapt; else null. `sizes`: as AdaptiveRows has
// them.
std::unique_ptr<AdaptiveRows> follow_ranks(const HeadParts& parts, const HeadRows& rows,
                                           std::span<const std::int32_t> chosen, std::span<const int> sizes = {}) {
  if (!parts.adaptive) return nullptr;
  std::vector<std::int32_t> row_of;
  for (TokenId token = 0; token < parts.vocabulary.size(); ++token) {
    row_of.push_back(rows.row_of(token).value_or(AdaptiveRows::kNoRow));
  }
  return std::make_unique<AdaptiveRows>(parts.adaptive, chosen, std::move(row_of), sizes);
}

// The tokens that a ranked head keeps of the given rows, ascending.
std::vector<TokenId> ranked_tokens(const HeadSpec& spec, const TokenRanks& ranks, const HeadParts& parts,
                                   const HeadRows& rows) {
  int size = spec.find(Kind::Ranked)->size;
  // How many tokens two vocabularies share, nobody knows who writes N.
  if (rows.is_part() && !rows.is_learned()) size = std::min(size, static_cast<int>(rows.vocabulary.tokens.size()));
  return rows.is_part() ? ranked_part(rows.vocabulary, ranks, size, parts.vocabulary)
                        : ranked_subset(ranks, size, parts.vocabulary);
}

std::unique_ptr<DraftHead> make_speculated(const HeadSpec& spec, int size, const DraftOptions& options,
                                           const HeadParts& parts, const HeadRows& rows) {
  const auto file = options.sketch ? GgufFile::open(*options.sketch, options.files) : parts.file;
  if (!has_sketch(*file)) {
    fail(file->path().string(), ": found no tensor 'sketch_down.weight', expected a sketch of the head, made by ",
         "frspec-sketch: head ", spec.text(), " needs one, in the drafter's file or in one of its own");
  }
  return make_speculated_head(parts.backend, rows,
                              read_sketch(file, parts.backend, parts.vocabulary, rows.source.rows, rows.source.cols),
                              std::min(size, rows.count()), parts.rows);
}

// Ranked rows, and those that follow the text.
std::unique_ptr<DraftHead> make_contextual(const HeadSpec& spec, const DraftOptions& options, const HeadParts& parts,
                                           const HeadRows& rows) {
  const HeadSpec::Part* ranked = spec.find(Kind::Ranked);
  const TokenRanks ranks = ranks_of(options, parts);
  // On its own, half of the rows are the most frequent ones.
  int size = spec.find(Kind::Contextual)->size;
  if (!ranked && size > rows.count()) {
    fail("head: found ", spec.text(), ", expected at most ", rows.count(), " rows, those of the drafter's head");
  }
  std::vector<TokenId> fixed;
  if (ranked) {
    fixed = ranked_tokens(spec, ranks, parts, rows);
  } else {
    fixed = frequent_tokens(ranks, size / 2, parts.vocabulary);
  }
  const std::vector<std::int32_t> fixed_rows = rows.rows_of(fixed);
  if (!ranked) size -= static_cast<int>(fixed_rows.size());
  return make_contextual_head(parts.backend, rows, fixed_rows, size,
                              rows.rows_of(ranked_order(ranks, parts.vocabulary)),
                              follow_ranks(parts, rows, fixed_rows));
}

std::unique_ptr<DraftHead> make_policy(const HeadSpec& spec, const DraftOptions& options, const HeadParts& parts,
                                       const HeadRows& rows);

// Every policy that the files allow, the one that misses least first, the cheapest last.
std::unique_ptr<DraftHead> make_choice(const DraftOptions& options, const HeadParts& parts, const HeadRows& rows) {
  constexpr std::array kRankedSizes = {32768, 16384, 8192, 4096, 2048};
  std::vector<ChoiceHead::Policy> policies;
  policies.push_back({rows.is_learned() ? "learned" : "full", make_full_head(parts.backend, rows)});
  const auto add = [&](const char* text) {
    const HeadSpec spec = parse_head_spec(text);
    policies.push_back({spec.text(), make_policy(spec, options, parts, rows)});
  };
  const bool sketched = !parts.is_foreign && (options.sketch || has_sketch(*parts.file));
  if (sketched && kSpeculatedRows < rows.count()) add("speculated");
  const auto worthwhile = [&](int size) {
    return 4 * std::int64_t{size} <= 3 * std::int64_t{policies[0].head->size()};
  };
  std::vector<int> sizes;
  std::copy_if(kRankedSizes.begin(), kRankedSizes.end(), std::back_inserter(sizes), worthwhile);
  if (!sizes.empty()) {
    const auto ranked_rows = rows.rows_of(ranked_order(ranks_of(options, parts), parts.vocabulary));
    std::erase_if(sizes, [&](int size) { return size > static_cast<int>(ranked_rows.size()); });
    if (!sizes.empty()) {
      auto heads =
          make_ranked_heads(parts.backend, rows, ranked_rows, sizes, follow_ranks(parts, rows, ranked_rows, sizes));
      for (std::size_t i = 0; i < sizes.size(); ++i)
        policies.push_back({concat("ranked:", sizes[i]), std::move(heads[i])});
    }
  }
  if (options.contextual && !parts.is_foreign && worthwhile(kContextualRows)) add("contextual");
  return std::make_unique<ChoiceHead>(std::move(policies), parts.spelling);
}

std::unique_ptr<DraftHead> make_policy(const HeadSpec& spec, const DraftOptions& options, const HeadParts& parts,
                                       const HeadRows& rows) {
  if (spec.find(Kind::Learned) && !rows.is_learned()) {
    fail("head: found learned, but ", parts.file->path().string(),
         " has no reduced head of its own (tensors 'output.weight' and 'd2t'); expected another policy");
  }
  if (parts.is_foreign && (spec.find(Kind::Speculated) || (spec.find(Kind::Contextual) && !parts.is_told))) {
    fail("head: found ", spec.text(), ", but ", parts.file->path().string(),
         " has not the target's own vocabulary; expected 'auto', 'full'",
         parts.is_told ? ", 'ranked:N' or 'contextual'" : " or 'ranked:N'");
  }
  if (spec.find(Kind::Contextual) && !options.contextual) {
    fail("head: found ", spec.text(), " beside contextual False, expected one of them");
  }
  if (spec.is_auto()) return make_choice(options, parts, rows);
  if (spec.is_full() || spec.find(Kind::Learned)) return make_full_head(parts.backend, rows);
  std::unique_ptr<DraftHead> head;
  if (spec.find(Kind::Contextual)) {
    head = make_contextual(spec, options, parts, rows);
  } else if (spec.find(Kind::Ranked)) {
    const auto chosen = rows.in_order(rows.rows_of(ranked_tokens(spec, ranks_of(options, parts), parts, rows)));
    head = make_listed_head(parts.backend, rows, chosen, follow_ranks(parts, rows, chosen));
  }
  const HeadSpec::Part* speculated = spec.find(Kind::Speculated);
  if (speculated == nullptr) return head;
  auto sketched = make_speculated(spec, speculated->size, options, parts, rows);
  if (!head) return sketched;
  return make_united_head(parts.backend, std::move(sketched), std::move(head), parts.rows, kMostBest);
}

}  // namespace

std::unique_ptr<DraftHead> make_head(const HeadSpec& spec, const DraftOptions& options, const HeadParts& parts,
                                     const HeadRows& rows) {
  auto head = make_policy(spec, options, parts, rows.padded(parts.vocabulary));
  return parts.states ? make_recording_head(parts.backend, std::move(head), parts.states) : std::move(head);
}

}  // namespace frspec
