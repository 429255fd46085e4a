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
#include "vocab/alignment.h"
#include "vocab/draft_head.h"
#include "vocab/draft_vocabulary.h"
#include "vocab/token_ranks.h"

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

TokenRanks find_ranks(const HeadSpec& spec, const EngineOptions& options, const DrafterParts& parts) {
  auto ranks = options.ranks ? load_ranks(*options.ranks, *parts.tokenizer) : read_ranks(*parts.file, *parts.tokenizer);
  if (!ranks) {
    fail("head: found ", spec.text(), ", but ", parts.file->path().string(),
         " has no tensor 'token_ranks' and no ranks file is given");
  }
  return *std::move(ranks);
}

// The target's tokens that a ranked head keeps.
std::vector<TokenId> ranked_tokens(const HeadSpec& spec, const EngineOptions& options, const DrafterParts& parts) {
  return ranked_subset(find_ranks(spec, options, parts), spec.size, *parts.tokenizer);
}

// All rows of a head, or those of the given tokens.
std::unique_ptr<DraftHead> head_of(Backend& backend, const CausalModel& model, const HeadSpec& spec,
                                   const std::vector<TokenId>& tokens) {
  if (spec.kind == HeadSpec::Kind::Full) return make_full_head(backend, model.head());
  return make_listed_head(backend, model.head_source(), tokens);
}

EagleLimits eagle_limits(const EngineOptions& options, const DrafterParts& parts) {
  return {parts.context, std::max(parts.batch, kTranslatedDepth * options.tree.levels() + 1), options.kv_type};
}

std::unique_ptr<Drafter> make_eagle2(const EngineOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
  (void)read_eagle2_config(*parts.file);  // says what the file is before its vocabulary is looked at
  check_same_vocabulary(*parts.file, *parts.tokenizer);
  std::vector<TokenId> tokens;
  if (spec.kind == HeadSpec::Kind::Ranked) tokens = ranked_tokens(spec, options, parts);
  return std::make_unique<Eagle2Drafter>(parts.file, parts.backend, parts.target,
                                         head_of(parts.backend, parts.target, spec, tokens), options.tree,
                                         eagle_limits(options, parts), parts.on_bytes);
}

// The rows of an EAGLE-3 drafter's own head that `spec` asks for, or of the target's where it has none.
std::unique_ptr<DraftHead> eagle3_head(const EngineOptions& options, const HeadSpec& spec, const DrafterParts& parts,
                                       const ModelConfig& config) {
  const GgufTensor* own = parts.file->find_tensor("output.weight");
  const std::int64_t rows = own != nullptr ? own->shape[1] : 0;
  const auto vocabulary = read_draft_vocabulary(*parts.file, rows, *parts.tokenizer);
  const bool ranked = spec.kind == HeadSpec::Kind::Ranked;
  if (own == nullptr) {
    return head_of(parts.backend, parts.target, spec,
                   ranked ? ranked_tokens(spec, options, parts) : std::vector<TokenId>{});
  }
  const WeightSource source =
      WeightLoader(parts.file, parts.backend).source("output.weight", rows, std::int64_t{config.dim});
  if (vocabulary) {
    const DraftVocabulary kept =
        ranked ? ranked_part(*vocabulary, find_ranks(spec, options, parts), spec.size, *parts.tokenizer) : *vocabulary;
    return make_listed_head(parts.backend, source, kept.tokens, kept.rows);
  }
  std::vector<TokenId> tokens(static_cast<std::size_t>(rows));
  std::iota(tokens.begin(), tokens.end(), TokenId{0});
  return make_listed_head(parts.backend, source, ranked ? ranked_tokens(spec, options, parts) : tokens);
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
  return std::make_unique<Eagle3Drafter>(parts.file, parts.backend, parts.target,
                                         eagle3_head(options, spec, parts, config), options.tree,
                                         eagle_limits(options, parts), parts.on_bytes);
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

std::unique_ptr<Drafter> make_causal(const EngineOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
  const std::string path = parts.file->path().string();
  const std::shared_ptr<const Tokenizer> own = Tokenizer::load(*parts.file);
  const VocabularyAlignment alignment(*parts.tokenizer, *own);
  const ModelConfig config = read_causal_config(*parts.file);
  // The same text may be more tokens in another vocabulary.
  const std::int64_t wanted = std::int64_t{parts.context} * (alignment.is_identity() ? 1 : kTranslatedContext);
  const int context = static_cast<int>(std::min<std::int64_t>(wanted + 1, config.context));
  const bool slrs = options.translate == "slrs";
  if (slrs && !alignment.is_identity()) SlrsDrafter::check_tokens(*own, path);
  ModelLimits limits = TreeModel::limits(options.tree, context, parts.batch, options.kv_type);
  if (slrs) limits = SlrsDrafter::limits(limits, options.tree.levels());
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
  std::vector<TokenId> tokens;
  if (spec.kind == HeadSpec::Kind::Ranked) {
    if (string_level) {
      fail("head: found ", spec.text(), ", but ", path,
           " is translated string by string (slem, slrs), where ranks of the target's tokens choose no rows of the "
           "drafter's "
           "head; expected 'full'");
    }
    tokens = ranked_tokens(spec, options, parts);
  }
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
  const HeadSpec rows = all_rows ? HeadSpec{} : HeadSpec{HeadSpec::Kind::Ranked, static_cast<int>(ids.size())};
  auto head = head_of(parts.backend, *model, rows, ids);
  auto tree_model = std::make_unique<TreeModel>(parts.backend, std::move(model), std::move(head), options.tree);
  if (same) return std::make_unique<CausalDrafter>(std::move(tree_model));
  auto translated = std::make_unique<TranslatedModel>(std::move(tree_model), parts.tokenizer, own);
  if (slrs) {
    return std::make_unique<SlrsDrafter>(parts.backend, std::move(translated),
                                         std::min(options.tree.levels(), std::max(1, options.tree.size - 1)));
  }
  if (!string_level) return std::make_unique<TliDrafter>(parts.backend, std::move(translated));
  return std::make_unique<SlemDrafter>(parts.backend, std::move(translated), options.tree.size,
                                       kTranslatedDepth * options.tree.levels());
}

}  // namespace

TreeBounds tree_bounds(const EngineOptions& options) {
  TreeBounds bounds;
  if (options.drafter) bounds = {options.tree.size, kTranslatedDepth * options.tree.levels()};
  if (options.ngram > 0) {
    bounds.size += options.tree.levels();
    bounds.depth = std::max(bounds.depth, options.tree.levels());
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
  check_tree_shape(options.tree);
  if (!options.drafter && (options.ranks || head.kind != HeadSpec::Kind::Full)) {
    fail("head: found ", options.ranks ? "a ranks file" : head.text(), ", but there is no drafter to use it");
  }
  if (options.ranks && head.kind == HeadSpec::Kind::Full) {
    fail("head: found a ranks file, ", options.ranks->string(),
         ", and head 'full', which uses none; expected 'ranked:N'");
  }
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
    inner = {options.tree.size, kTranslatedDepth * options.tree.levels()};
  }
  if (options.ngram == 0) return drafter;
  const int levels = options.tree.levels();
  return std::make_unique<NgramDrafter>(parts.backend, std::move(drafter), options.ngram, levels, levels, inner.size,
                                        inner.depth);
}

}  // namespace frspec
