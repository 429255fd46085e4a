#include "draft/make_drafter.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "draft/adapt.h"
#include "draft/causal_drafter.h"
#include "draft/eagle2.h"
#include "draft/eagle3.h"
#include "draft/make_head.h"
#include "draft/mtp.h"
#include "draft/ngram_drafter.h"
#include "draft/retokenizer.h"
#include "draft/slrs_drafter.h"
#include "draft/translated_drafter.h"
#include "vocab/alignment.h"
#include "vocab/draft_vocabulary.h"
#include "vocab/timed_head.h"

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
int repeated_levels(const DraftOptions& options) { return largest_tree(options).levels(); }

HeadParts head_parts(const DraftOptions& options, const DrafterParts& parts, const Tokenizer& vocabulary) {
  return {.backend = parts.backend,
          .vocabulary = vocabulary,
          .file = parts.file,
          .rows = largest_tree(options).branch,
          .adaptive = parts.adaptive,
          .states = parts.states,
          .ranks_source = parts.ranks_source};
}

std::unique_ptr<DraftHead> timed(const DrafterParts& parts, std::unique_ptr<DraftHead> head) {
  return parts.clock != nullptr ? make_timed_head(std::move(head), *parts.clock) : std::move(head);
}

EagleLimits eagle_limits(const DraftOptions& options, const DrafterParts& parts) {
  return {parts.context, std::max(parts.batch, kTranslatedDepth * largest_tree(options).levels() + 1), options.kv_type,
          options.rope};
}

std::unique_ptr<Drafter> make_eagle2(const DraftOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
  (void)read_eagle2_config(*parts.file);  // says what the file is before its vocabulary is looked at
  check_same_vocabulary(*parts.file, *parts.tokenizer);
  const HeadRows rows = HeadRows::whole(parts.target.head_source(), &parts.target.head());
  return std::make_unique<Eagle2Drafter>(
      parts.file, parts.backend, parts.target,
      timed(parts, make_head(spec, options, head_parts(options, parts, *parts.tokenizer), rows)), largest_tree(options),
      eagle_limits(options, parts), parts.on_bytes);
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

std::unique_ptr<Drafter> make_eagle3(const DraftOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
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
      timed(parts, make_head(spec, options, head_parts(options, parts, *parts.tokenizer), eagle3_rows(parts, config))),
      largest_tree(options), eagle_limits(options, parts), parts.on_bytes);
}

// The rows of a nextn block's own head: one of its own name, or a trimmed one in its own file; else the target's, of
// which such a file may have a copy.
HeadRows mtp_rows(const DrafterParts& parts, const ModelConfig& config, bool own_file) {
  const CausalModel& target = parts.target;
  std::string name = mtp_tensor(config, "nextn.shared_head_head.weight");
  const bool named = parts.file->find_tensor(name) != nullptr;
  if (!named) name = "output.weight";
  const GgufTensor* own = named || own_file ? parts.file->find_tensor(name) : nullptr;
  const std::int64_t rows = own != nullptr ? own->shape[1] : 0;
  auto vocabulary = own_file || named ? read_draft_vocabulary(*parts.file, rows, *parts.tokenizer, name) : std::nullopt;
  if (own == nullptr || (!named && !vocabulary)) return HeadRows::whole(target.head_source(), &target.head());
  WeightSource source = WeightLoader(parts.file, parts.backend).source(name, rows, std::int64_t{config.dim});
  if (vocabulary) return HeadRows::reduced(std::move(source), *std::move(vocabulary));
  return HeadRows::whole(std::move(source), nullptr);
}

std::unique_ptr<Drafter> make_mtp(const DraftOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
  const ModelConfig config = read_mtp_config(*parts.file);
  const ModelConfig& target = parts.target.config();
  const bool own_file = parts.file->path() != parts.target.file().path();
  if (config.style.name != target.style.name) {
    fail(parts.file->path().string(), ": key 'general.architecture': found '", config.style.name, "', expected '",
         target.style.name, "', the target's: a nextn block drafts for its own model");
  }
  expect_of_target(*parts.file, "embedding_length", config.dim, target.dim, "hidden size");
  if (own_file) check_same_vocabulary(*parts.file, *parts.tokenizer);
  return std::make_unique<MtpDrafter>(
      parts.file, parts.backend, parts.target,
      timed(parts,
            make_head(spec, options, head_parts(options, parts, *parts.tokenizer), mtp_rows(parts, config, own_file))),
      largest_tree(options), eagle_limits(options, parts), parts.on_bytes);
}

// The rows of a drafter's head that stand for tokens of the target, too.
DraftVocabulary shared_part(const VocabularyAlignment& alignment, int target_size) {
  DraftVocabulary part;
  part.whose = "the tokens that both vocabularies have";
  for (TokenId token = 0; token < target_size; ++token) {
    if (alignment.to_drafter(token) == VocabularyAlignment::kNone) continue;
    part.rows.push_back(alignment.to_drafter(token));
    part.tokens.push_back(token);
  }
  return part;
}

// What a drafter of another vocabulary would write for a token of the target.
std::vector<TokenId> spelling(const VocabularyAlignment& alignment, const Tokenizer& target, const Tokenizer& own,
                              TokenId token) {
  if (alignment.to_drafter(token) != VocabularyAlignment::kNone) return {alignment.to_drafter(token)};
  const std::string& bytes = target.token_bytes(token);
  if (target.token_type(token) == TokenType::Control || whole_characters(bytes) != bytes.size()) return {};
  return encode_behind(own, {}, bytes);
}

// How a drafter's tokens become the target's: they are the same, or by one of the translations.
enum class Translation { None, Tli, StringLevel };

// The head of a whole model as drafter. `is_open`: beside one of the other translation, with the same options.
std::unique_ptr<DraftHead> make_model_head(DraftOptions options, const HeadSpec& spec, const DrafterParts& parts,
                                           const CausalModel& model, const VocabularyAlignment& alignment,
                                           const std::shared_ptr<const Tokenizer>& own, Translation translation,
                                           bool is_open) {
  const std::string path = parts.file->path().string();
  const bool string_level = translation == Translation::StringLevel;
  // A drafter never proposes what is no token of the target.
  const bool part =
      translation == Translation::Tli || (translation == Translation::None && own->size() > parts.tokenizer->size());
  const HeadRows rows =
      part ? HeadRows::shared(model.head_source(), &model.head(), shared_part(alignment, parts.tokenizer->size()))
           : HeadRows::whole(model.head_source(), &model.head());
  if (part && !rows.is_part()) {
    fail("translate: found tli, but the vocabularies of target and drafter (", path, ") have no token in common");
  }
  // Ranks of one vocabulary are for the translation that uses it; the other has those that no file brings.
  if (is_open && options.ranks && ranks_are_of(*options.ranks, string_level ? *parts.tokenizer : *own)) {
    options.ranks.reset();
  }
  HeadParts head = head_parts(options, parts, string_level ? *own : *parts.tokenizer);
  head.is_foreign = part || string_level;
  head.is_told = options.translate != "slrs";
  if (head.is_foreign) {
    head.spelling = [alignment, own, target = parts.tokenizer](TokenId id) {
      return spelling(alignment, *target, *own, id);
    };
  }
  if (string_level) {
    // Ranks that adapt count the target's tokens.
    if (options.adapt && !spec.is_auto() && !is_open) {
      fail("adapt: found a ranks file, ", options.adapt->string(), ", but ", path,
           " is translated string by string (slem, slrs): its rows follow no counts of the target's tokens");
    }
    head.adaptive = nullptr;
  }
  return timed(parts, make_head(spec, options, head, rows));
}

std::unique_ptr<Drafter> make_causal(const DraftOptions& options, const HeadSpec& spec, const DrafterParts& parts) {
  const std::string path = parts.file->path().string();
  const TreeShape tree = largest_tree(options);
  const std::shared_ptr<const Tokenizer> own = Tokenizer::load(*parts.file);
  const VocabularyAlignment alignment(*parts.tokenizer, *own);
  ModelConfig config = read_causal_config(*parts.file);
  if (config.recurrent_layers() > 0) {
    fail(path, ": key 'general.architecture': found '", config.style.name,
         "', a whole model whose layers are recurrent and that has no nextn block (key '", config.style.name,
         ".nextn_predict_layers'); expected an MTP drafter, an EAGLE drafter, or a model of attention alone");
  }
  apply(options.rope, config);
  // The same ids on both sides: nothing to translate, although either may have more rows than there are tokens.
  const bool same = alignment.is_identity();
  if (same && options.translate != "auto") {
    fail("translate: found ", options.translate, ", but ", path, " has the target's own vocabulary; expected 'auto'");
  }
  // The same text may be more tokens in another vocabulary.
  const std::int64_t wanted = std::int64_t{parts.context} * (same ? 1 : kTranslatedContext);
  const int context = static_cast<int>(std::min<std::int64_t>(wanted + 1, config.context_limit));
  const bool slrs = options.translate == "slrs";
  if (slrs) SlrsDrafter::check_tokens(*own, path);
  ModelLimits limits = TreeModel::limits(tree, context, parts.batch, options.kv_type);
  if (slrs) limits = SlrsDrafter::limits(limits, tree.levels());
  limits.spare_pages = spare_pages(parts.spare, context);
  limits.places = parts.places;
  auto model = std::make_unique<CausalModel>(parts.file, parts.backend, limits, ModelTaps{}, parts.on_bytes);
  check_embedding_rows(*parts.file, model->config().vocab, *own);
  // Where too little is shared, tokens cannot be taken one by one; else it is found out which translation pays.
  const bool is_open = options.translate == "auto" && 2 * alignment.size() >= parts.tokenizer->size();
  const Translation translation = same                                    ? Translation::None
                                  : options.translate == "tli" || is_open ? Translation::Tli
                                                                          : Translation::StringLevel;
  const auto make = [&](const CausalModel& of, Translation by) {
    return make_model_head(options, spec, parts, of, alignment, own, by, is_open && !same);
  };
  auto head = make(*model, translation);
  auto tree_model = std::make_unique<TreeModel>(parts.backend, std::move(model), std::move(head), tree);
  if (same) return std::make_unique<CausalDrafter>(std::move(tree_model));
  const auto translated = std::make_shared<TranslatedModel>(std::move(tree_model), parts.tokenizer, own);
  if (slrs) {
    return std::make_unique<SlrsDrafter>(parts.backend, translated,
                                         std::min(tree.levels(), std::max(1, tree.size - 1)));
  }
  const auto make_slem = [&](std::unique_ptr<DraftHead> other) {
    return std::make_unique<SlemDrafter>(parts.backend, translated, tree.size, kTranslatedDepth * tree.levels(),
                                         std::move(other));
  };
  if (translation == Translation::StringLevel) return make_slem(nullptr);
  auto tli = std::make_unique<TliDrafter>(parts.backend, translated);
  if (!is_open) return tli;
  return std::make_unique<EitherTranslation>(translated, std::move(tli),
                                             make_slem(make(translated->model().model(), Translation::StringLevel)));
}

}  // namespace

TreeBounds tree_bounds(const DraftOptions& options) {
  TreeBounds bounds;
  if (!options.drafter && ngram_of(options) == 0) bounds = {kForcedRun + 1, kForcedRun};
  if (options.drafter) bounds = {largest_tree(options).size, kTranslatedDepth * largest_tree(options).levels()};
  if (ngram_of(options) > 0) {
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

int most_places(const DraftOptions& options, int wanted) { return options.translate == "slrs" ? 1 : wanted; }

int drafter_slots(const DraftOptions& options, const GgufFile& drafter) {
  return is_causal(drafter) && !is_mtp(drafter) ? 0 : EagleDrafter::slots_behind(largest_tree(options));
}

std::string head_for_files(const std::vector<std::string>& heads, const DraftOptions& options) {
  std::string ranked;
  std::string sketched;
  for (const std::string& head : heads) {
    const HeadSpec spec = parse_head_spec(head);
    const bool by_ranks = spec.is_auto() || spec.find(HeadSpec::Kind::Ranked) || spec.find(HeadSpec::Kind::Contextual);
    const bool by_sketch = spec.is_auto() || spec.find(HeadSpec::Kind::Speculated);
    if (by_ranks && by_sketch) return head;
    if (by_ranks && ranked.empty()) ranked = head;
    if (by_sketch && sketched.empty()) sketched = head;
  }
  if (options.ranks && options.sketch && !ranked.empty() && !sketched.empty()) return ranked + "+" + sketched;
  if (options.sketch && !sketched.empty()) return sketched;
  if (!ranked.empty()) return ranked;
  return heads.empty() ? "full" : heads.front();
}

void check_drafter_options(const DraftOptions& options) {
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
  if (ngram_of(options) < 0 || ngram_of(options) > kMaxNgram) {
    fail("ngram: found ", ngram_of(options), " tokens, expected 0 (none) to ", kMaxNgram);
  }
  if (std::find(kTranslations.begin(), kTranslations.end(), options.translate) == kTranslations.end()) {
    fail("translate: found ", quoted(options.translate), ", expected 'auto', 'tli', 'slem' or 'slrs'");
  }
  if (options.translate != "auto" && !options.drafter) {
    fail("translate: found ", options.translate, ", but there is no drafter to translate");
  }
}

std::unique_ptr<Drafter> make_drafter(const DraftOptions& options, const std::string& head, const DrafterParts& parts) {
  std::unique_ptr<Drafter> drafter;
  TreeBounds inner;
  if (parts.file) {
    const HeadSpec spec = parse_head_spec(head);
    const bool mtp = is_mtp(*parts.file), eagle = !mtp && !is_causal(*parts.file);
    if ((eagle || mtp) && options.translate != "auto") {
      fail("translate: found ", options.translate, ", but ", parts.file->path().string(), " is an ",
           mtp ? "MTP" : "EAGLE", " drafter, which works with its target's own vocabulary; expected 'auto'");
    }
    const auto make = mtp ? make_mtp : !eagle ? make_causal : is_eagle3(*parts.file) ? make_eagle3 : make_eagle2;
    drafter = make(options, spec, parts);
    inner = {largest_tree(options).size, kTranslatedDepth * largest_tree(options).levels()};
  }
  if (ngram_of(options) == 0) return drafter;
  const int levels = repeated_levels(options);
  return std::make_unique<NgramDrafter>(parts.backend, std::move(drafter), ngram_of(options), levels, levels,
                                        inner.size, inner.depth, parts.places);
}

}  // namespace frspec
