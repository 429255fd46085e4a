// Making drafters.
#include "engine/make_drafter.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "draft/causal_drafter.h"
#include "draft/eagle2.h"
#include "draft/eagle3.h"
#include "draft/ngram_drafter.h"
#include "draft/slrs_drafter.h"
#include "draft/translated_drafter.h"
#include "engine/adapt.h"
#include "engine/make_head.h"
#include "vocab/alignment.h"
#include "vocab/draft_vocabulary.h"

namespace frspec {
namespace {

constexpr int kMaxNgram = 64;
constexpr int kTranslatedDepth = 2;    // a level of another vocabulary's tree may become so many of the target's
constexpr int kTranslatedContext = 4;  // and a token of the text so many of the drafter's
constexpr std::array<std::string_view, 4> kTranslations = {"auto", "tli", "slem", "slrs"};

bool is_eagle3(const GgufFile& file) { return file.get_string("general.architecture") == "eagle3"; }

void check_same_vocabulary(const GgufFile& drafter, const Tokenizer& target) {
  if (drafter.find("tokenizer.ggml.tokens") == nullptr) return;
  const auto own = Tokenizer::load(drafter);
  if (own->fingerprint() != target.fingerprint()) {
    fail(drafter.path().string(), ": key 'tokenizer.ggml.tokens': found a vocabulary of ", own->size(),
         " tokens with fingerprint ", own->fingerprint(), ", expected the target's, ", target.size(),
         " tokens with fingerprint ", target.fingerprint());
  }
}

// Of what the text repeats, one behind the other.
int repeated_levels(const EngineOptions& options) { return largest_tree(options).levels(); }

HeadParts head_parts(const EngineOptions& options, const DrafterParts& parts) {
  return {parts.backend, *parts.tokenizer, parts.file, largest_tree(options).branch, parts.adaptive};
}

std::unique_ptr<DraftHead> timed(const DrafterParts& parts, std::unique_ptr<DraftHead> head) {
  return parts.clock != nullptr ? make_timed_head(std::move(head), *parts.clock) : std::move(head);
}

EagleLimits eagle_limits(const EngineOptions& options, const DrafterParts& parts) {
  return {parts.context, std::max(parts.batch, kTranslatedDepth * largest_tree(options).levels() + 1), options.kv_type,
          options.rope};
}

std::unique_ptr<Drafter> make_eagle2(const EngineOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
  (void)read_eagle2_config(*parts.file);  // says what the file is before its vocabulary is looked at
  check_same_vocabulary(*parts.file, *parts.tokenizer);
  const HeadRows rows = HeadRows::whole(parts.target.head_source(), &parts.target.head());
  return std::make_unique<Eagle2Drafter>(parts.file, parts.backend, parts.target,
                                         timed(parts, make_head(spec, options, head_parts(options, parts), rows)),
                                         largest_tree(options), eagle_limits(options, parts), parts.on_bytes);
}

// The rows of an EAGLE-3 drafter's own head, or of the target's where it has none.
HeadRows eagle3_rows(const DrafterParts& parts, const ModelConfig& config) {
  const GgufTensor* own = parts.file->find_tensor("output.weight");
  const std::int64_t rows = own != nullptr ? own->shape[1] : 0;
  auto vocabulary = read_draft_vocabulary(*parts.file, rows, *parts.tokenizer);
  if (own == nullptr) return HeadRows::whole(parts.target.head_source(), &parts.target.head());
  WeightSource source = WeightLoader(parts.file, parts.backend).source("output.weight", rows, std::int64_t{config.dim});
  if (vocabulary) return HeadRows::reduced(std::move(source), *std::move(vocabulary));
  return HeadRows::whole(std::move(source), nullptr);
}

std::unique_ptr<Drafter> make_eagle3(const EngineOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
  const ModelConfig config = read_eagle3_config(*parts.file);
  const ModelConfig& target = parts.target.config();
  expect_of_target(*parts.file, "target_hidden_size", config.target_dim, target.dim, "hidden size");
  expect_of_target(*parts.file, "vocab_size", config.vocab, target.vocab, "vocabulary size");
  check_same_vocabulary(*parts.file, *parts.tokenizer);
  for (const char* name : {"token_embd.weight", "output.weight"}) {
    if (config.dim == target.dim || parts.file->find_tensor(name) != nullptr) continue;
    fail(parts.file->path().string(), ": tensor '", name, "' is missing: found key 'eagle3.embedding_length' ",
         config.dim, ", expected ", target.dim, ", the target's hidden size, or a tensor of that width");
  }
  return std::make_unique<Eagle3Drafter>(
      parts.file, parts.backend, parts.target,
      timed(parts, make_head(spec, options, head_parts(options, parts), eagle3_rows(parts, config))),
      largest_tree(options), eagle_limits(options, parts), parts.on_bytes);
}

// The drafter's ids of the given target tokens, and of the end of a text where it has one; ascending.
std::vector<TokenId> intersection(const VocabularyAlignment& alignment, const std::vector<TokenId>& tokens) {
  std::vector<TokenId> ids;
  for (const TokenId token : tokens) {
    if (alignment.to_drafter(token) != VocabularyAlignment::kNone) ids.push_back(alignment.to_drafter(token));
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::unique_ptr<Drafter> make_causal(const EngineOptions& options, const HeadSpec& asked, const DrafterParts& parts) {
  const std::string path = parts.file->path().string();
  const std::shared_ptr<const Tokenizer> own = Tokenizer::load(*parts.file);
  const VocabularyAlignment alignment(*parts.tokenizer, *own);
  ModelConfig config = read_causal_config(*parts.file);
  apply(options.rope, config);
  // The same text may be more tokens in another vocabulary.
  const std::int64_t wanted = std::int64_t{parts.context} * (alignment.is_identity() ? 1 : kTranslatedContext);
  const int context = static_cast<int>(std::min<std::int64_t>(wanted + 1, config.context_limit));
  const bool slrs = options.translate == "slrs";
  if (slrs && !alignment.is_identity()) SlrsDrafter::check_tokens(*own, path);
  ModelLimits limits = TreeModel::limits(largest_tree(options), context, parts.batch, options.kv_type);
  if (slrs) limits = SlrsDrafter::limits(limits, largest_tree(options).levels());
  auto model = std::make_unique<CausalModel>(parts.file, parts.backend, limits, ModelTaps{}, parts.on_bytes);
  if (model->config().vocab != own->size()) {
    fail(path, ": tensor 'token_embd.weight': found ", model->config().vocab, " rows, expected one per token, ",
         own->size());
  }
  // The same ids on both sides: nothing to translate, although either may have more rows than there are tokens.
  const bool same = alignment.is_identity();
  if (same && options.translate != "auto") {
    fail("translate: found ", options.translate, ", but ", path, " has the target's own vocabulary; expected 'auto'");
  }
  const bool string_level = !same && (slrs || options.translate == "slem" ||
                                      (options.translate == "auto" && 2 * alignment.size() < parts.tokenizer->size()));
  // Where rows cannot be chosen, "auto" is all of them: whether to draft is still watched.
  const bool limited = string_level || alignment.size() < static_cast<int>(model->config().vocab);
  const HeadSpec spec = asked.is_auto() && limited ? HeadSpec{} : asked;
  if (string_level && !spec.is_full()) {
    fail("head: found ", spec.text(), ", but ", path,
         " is translated string by string (slem, slrs), where ranks of the target's tokens choose no rows of the "
         "drafter's head; expected 'full'");
  }
  const bool ranked = spec.parts.size() == 1 && spec.find(HeadSpec::Kind::Ranked) != nullptr;
  std::vector<TokenId> tokens;
  const HeadRows rows = HeadRows::whole(model->head_source(), &model->head());
  if (ranked) tokens = ranked_tokens(spec, options, head_parts(options, parts), rows);
  // A drafter never proposes what is no token of the target.
  const bool has_more_rows = own->size() > parts.tokenizer->size();
  if ((same ? has_more_rows : !string_level) && tokens.empty()) {
    for (TokenId id = 0; id < parts.tokenizer->size(); ++id) tokens.push_back(id);
  }
  std::vector<TokenId> ids = intersection(alignment, tokens);
  if (!same && !string_level && ids.empty()) {
    fail("translate: found tli, but the vocabularies of target and drafter (", path, ") have no token in common");
  }
  const bool all_rows = ids.empty() || static_cast<int>(ids.size()) == model->config().vocab;
  if (!all_rows && !ranked && !spec.is_full()) {
    fail("head: found ", spec.text(), ", but of the tokens of ", path, " only ", ids.size(),
         " are the target's; expected 'full' or 'ranked:N'");
  }
  const auto row_of = [&](TokenId token) { return alignment.to_drafter(token); };
  auto head = !all_rows ? make_listed_head(parts.backend, rows, ids,
                                           ranked ? follow_ranks(head_parts(options, parts), ids, row_of) : nullptr)
              : ranked  ? make_full_head(parts.backend, rows)
                        : make_head(spec, options, head_parts(options, parts), rows);
  auto tree_model = std::make_unique<TreeModel>(parts.backend, std::move(model), timed(parts, std::move(head)),
                                                largest_tree(options));
  if (same) return std::make_unique<CausalDrafter>(std::move(tree_model));
  auto translated = std::make_unique<TranslatedModel>(std::move(tree_model), parts.tokenizer, own);
  if (slrs) {
    return std::make_unique<SlrsDrafter>(
        parts.backend, std::move(translated),
        std::min(largest_tree(options).levels(), std::max(1, largest_tree(options).size - 1)));
  }
  if (!string_level) return std::make_unique<TliDrafter>(parts.backend, std::move(translated));
  return std::make_unique<SlemDrafter>(parts.backend, std::move(translated), largest_tree(options).size,
                                       kTranslatedDepth * largest_tree(options).levels());
}

}  // namespace

TreeBounds tree_bounds(const EngineOptions& options) {
  TreeBounds bounds;
  if (options.drafter) bounds = {largest_tree(options).size, kTranslatedDepth * largest_tree(options).levels()};
  if (options.ngram > 0) {
    bounds.size += repeated_levels(options);
    bounds.depth = std::max(bounds.depth, repeated_levels(options));
  }
  return bounds;
}

std::vector<int> drafter_taps(const GgufFile& drafter, const ModelConfig& target) {
  if (!is_eagle3(drafter)) return {};
  const std::vector<int> layers = read_eagle3_options(drafter).target_layers;
  for (const int layer : layers) {
    if (layer > target.layers) {
      fail(drafter.path().string(), ": key 'eagle3.target_layers': found ", layer, ", expected 0 to ", target.layers,
           ", the number of the target's layers");
    }
  }
  return layers;
}

void check_drafter_options(const EngineOptions& options) {
  const HeadSpec head = parse_head_spec(options.head);
  check_tree_shape(largest_tree(options));
  if (!options.drafter && (options.ranks || options.sketch || (!head.is_full() && !head.is_auto()))) {
    fail("head: found ",
         options.ranks    ? "a ranks file"
         : options.sketch ? "a sketch"
                          : head.text(),
         ", but there is no drafter to use it");
  }
  const bool is_auto = head.is_auto();
  if (options.ranks && !is_auto && !head.find(HeadSpec::Kind::Ranked) && !head.find(HeadSpec::Kind::Contextual)) {
    fail("head: found a ranks file, ", options.ranks->string(), ", and head '", head.text(),
         "', which uses none; expected 'ranked:N' or 'contextual'");
  }
  if (options.sketch && !is_auto && !head.find(HeadSpec::Kind::Speculated)) {
    fail("head: found a sketch, ", options.sketch->string(), ", and head '", head.text(),
         "', which uses none; expected 'speculated'");
  }
  check_adapt(options, head);
  if (options.ngram < 0 || options.ngram > kMaxNgram) {
    fail("ngram: found ", options.ngram, " tokens, expected 0 (none) to ", kMaxNgram);
  }
  if (std::find(kTranslations.begin(), kTranslations.end(), options.translate) == kTranslations.end()) {
    fail("translate: found ", quoted(options.translate), ", expected 'auto', 'tli', 'slem' or 'slrs'");
  }
  if (options.translate != "auto" && !options.drafter) {
    fail("translate: found ", options.translate, ", but there is no drafter to translate");
  }
}

std::unique_ptr<Drafter> make_drafter(const EngineOptions& options, const std::string& head,
                                      const DrafterParts& parts) {
  std::unique_ptr<Drafter> drafter;
  TreeBounds inner;
  if (parts.file) {
    const HeadSpec spec = parse_head_spec(head);
    const bool eagle = !is_causal(*parts.file);
    if (eagle && options.translate != "auto") {
      fail("translate: found ", options.translate, ", but ", parts.file->path().string(),
           " is an EAGLE drafter, which works with its target's own vocabulary; expected 'auto'");
    }
    const auto make = !eagle ? make_causal : is_eagle3(*parts.file) ? make_eagle3 : make_eagle2;
    drafter = make(options, spec, parts);
    inner = {largest_tree(options).size, kTranslatedDepth * largest_tree(options).levels()};
  }
  if (options.ngram == 0) return drafter;
  const int levels = repeated_levels(options);
  return std::make_unique<NgramDrafter>(parts.backend, std::move(drafter), options.ngram, levels, levels, inner.size,
                                        inner.depth);
}

}  // namespace frspec
