// Making heads.
#include "engine/make_head.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "vocab/choice_head.h"
#include "vocab/contextual_head.h"
#include "vocab/recording_head.h"
#include "vocab/sketch.h"
#include "vocab/speculated_head.h"

namespace frspec {
namespace {

using Kind = HeadSpec::Kind;

constexpr int kMostBest = 256;  // tokens that are asked of a state at once: a branch of a tree, a proposal

std::optional<TokenRanks> find_ranks(const EngineOptions& options, const HeadParts& parts) {
  if (parts.adaptive) return parts.adaptive->ranks();
  return options.ranks ? load_ranks(*options.ranks, parts.target) : read_ranks(*parts.file, parts.target);
}

auto row_in(const HeadRows& rows) {
  return [&rows](TokenId token) { return rows.row_of(token).value_or(AdaptiveRows::kNoRow); };
}

std::unique_ptr<DraftHead> make_speculated(const HeadSpec& spec, int size, const EngineOptions& options,
                                           const HeadParts& parts, const HeadRows& rows) {
  const auto file = options.sketch ? GgufFile::open(*options.sketch) : parts.file;
  if (!has_sketch(*file)) {
    fail(file->path().string(), ": found no tensor 'sketch_down.weight', expected a sketch of the head, made by ",
         "frspec-sketch: head ", spec.text(), " needs one, in the drafter's file or in one of its own");
  }
  return make_speculated_head(parts.backend, rows,
                              read_sketch(file, parts.backend, parts.target, rows.source.rows, rows.source.cols),
                              std::min<int>(size, static_cast<int>(rows.source.rows)), parts.rows);
}

// Ranked rows, and those that follow the text.
std::unique_ptr<DraftHead> make_contextual(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                           const HeadRows& rows) {
  const HeadSpec::Part* ranked = spec.find(Kind::Ranked);
  const auto ranks = find_ranks(options, parts);
  // On its own, half of the rows are the most frequent ones, where these are known.
  int size = spec.find(Kind::Contextual)->size;
  if (!ranked && size > rows.source.rows) {
    fail("head: found ", spec.text(), ", expected at most ", rows.source.rows, " rows, those of the drafter's head");
  }
  std::vector<TokenId> fixed;
  if (ranked) {
    fixed = ranked_tokens(spec, options, parts, rows);
  } else {
    fixed = frequent_tokens(ranks ? *ranks : TokenRanks{}, size / 2, parts.target);
  }
  const std::vector<std::int32_t> fixed_rows = rows.rows_of(fixed);
  if (!ranked) size -= static_cast<int>(fixed_rows.size());
  return make_contextual_head(parts.backend, rows, fixed_rows, size,
                              ranks ? rows.rows_of(ranks->ids) : std::vector<std::int32_t>{},
                              follow_ranks(parts, fixed_rows, row_in(rows)));
}

}  // namespace

std::unique_ptr<AdaptiveRows> follow_ranks(const HeadParts& parts, std::span<const std::int32_t> chosen,
                                           const std::function<std::int32_t(TokenId)>& row_of_token,
                                           std::span<const int> sizes) {
  if (!parts.adaptive) return nullptr;
  std::vector<std::int32_t> row_of;
  for (TokenId token = 0; token < parts.target.size(); ++token) row_of.push_back(row_of_token(token));
  return std::make_unique<AdaptiveRows>(parts.adaptive, chosen, std::move(row_of), sizes);
}

std::vector<TokenId> ranked_tokens(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                   const HeadRows& rows) {
  const auto ranks = find_ranks(options, parts);
  if (!ranks) {
    fail("head: found ", spec.text(), ", but ", parts.file->path().string(),
         " has no tensor 'token_ranks' and no ranks file is given");
  }
  const int size = spec.find(Kind::Ranked)->size;
  if (rows.is_reduced()) return ranked_part(rows.vocabulary, *ranks, size, parts.target).tokens;
  return ranked_subset(*ranks, size, parts.target);
}

namespace {

std::unique_ptr<DraftHead> make_policy(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                       const HeadRows& rows);

// Every policy that the files allow, the one that misses least first, the cheapest last.
std::unique_ptr<DraftHead> make_choice(const EngineOptions& options, const HeadParts& parts, const HeadRows& rows) {
  constexpr std::array kRankedSizes = {32768, 16384, 8192, 4096, 2048};
  std::vector<ChoiceHead::Policy> policies;
  policies.push_back({rows.is_reduced() ? "learned" : "full", make_full_head(parts.backend, rows)});
  const auto add = [&](const char* text) {
    const HeadSpec spec = parse_head_spec(text);
    policies.push_back({spec.text(), make_policy(spec, options, parts, rows)});
  };
  const bool sketched = options.sketch || has_sketch(*parts.file);
  if (sketched && kSpeculatedRows < rows.source.rows) add("speculated");
  if (const auto ranks = find_ranks(options, parts)) {
    // Control tokens first: every size keeps them.
    std::vector<TokenId> ranked = frequent_tokens(TokenRanks{}, parts.target.size(), parts.target);
    for (const TokenId id : ranks->ids) {
      if (parts.target.token_type(id) != TokenType::Control) ranked.push_back(id);
    }
    const std::vector<std::int32_t> ranked_rows = rows.rows_of(ranked);
    std::vector<int> sizes;
    for (const int size : kRankedSizes) {
      if (4 * std::int64_t{size} <= 3 * rows.source.rows && size <= static_cast<int>(ranked_rows.size())) {
        sizes.push_back(size);
      }
    }
    if (!sizes.empty()) {
      auto heads = make_ranked_heads(parts.backend, rows, ranked_rows, sizes,
                                     follow_ranks(parts, ranked_rows, row_in(rows), sizes));
      for (std::size_t i = 0; i < sizes.size(); ++i)
        policies.push_back({concat("ranked:", sizes[i]), std::move(heads[i])});
    }
  }
  if (4 * std::int64_t{kContextualRows} <= 3 * rows.source.rows) add("contextual");
  return std::make_unique<ChoiceHead>(std::move(policies));
}

std::unique_ptr<DraftHead> make_policy(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                       const HeadRows& rows) {
  if (spec.find(Kind::Learned) && !rows.is_reduced()) {
    fail("head: found learned, but ", parts.file->path().string(),
         " has no reduced head of its own (tensors 'output.weight' and 'd2t'); expected another policy");
  }
  if (spec.is_auto()) return make_choice(options, parts, rows);
  if (spec.is_full() || spec.find(Kind::Learned)) return make_full_head(parts.backend, rows);
  std::unique_ptr<DraftHead> head;
  if (spec.find(Kind::Contextual)) {
    head = make_contextual(spec, options, parts, rows);
  } else if (spec.find(Kind::Ranked)) {
    const auto chosen = rows.rows_of(ranked_tokens(spec, options, parts, rows));
    head = make_listed_head(parts.backend, rows, chosen, follow_ranks(parts, chosen, row_in(rows)));
  }
  const HeadSpec::Part* speculated = spec.find(Kind::Speculated);
  if (speculated == nullptr) return head;
  auto sketched = make_speculated(spec, speculated->size, options, parts, rows);
  if (!head) return sketched;
  return make_united_head(parts.backend, std::move(sketched), std::move(head), parts.rows, kMostBest);
}

}  // namespace

std::unique_ptr<DraftHead> make_head(const HeadSpec& spec, const EngineOptions& options, const HeadParts& parts,
                                     const HeadRows& rows) {
  auto head = make_policy(spec, options, parts, rows);
  return options.states ? make_recording_head(parts.backend, std::move(head), options.states) : std::move(head);
}

}  // namespace frspec
