#include "draft/translated_drafter.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace frspec {
namespace {

constexpr std::size_t kMostPaths = 48;  // of the drafter's that are translated, where a Growth chooses among them

}  // namespace

TranslatedModel::TranslatedModel(std::unique_ptr<TreeModel> model, std::shared_ptr<const Tokenizer> target,
                                 std::shared_ptr<const Tokenizer> drafter)
    : model_(std::move(model)),
      target_(std::move(target)),
      drafter_(std::move(drafter)),
      alignment_(*target_, *drafter_),
      texts_(static_cast<std::size_t>(model_->model().limits().places),
             Text{Retokenizer(*target_, *drafter_, alignment_)}) {}

void TranslatedModel::use_place(int place) {
  place_ = static_cast<std::size_t>(place);
  model_->use_place(place);
}

void TranslatedModel::begin(const Reuse& reuse, bool alone) {
  at().tokens.clear();
  at().pushed = 0;
  at().retokenizer.begin();
  model_->begin(reuse);
  if (alone) model_->head().begin();
  at().kept = 0;
  at().told = 0;
}

void TranslatedModel::push() {
  Text& own = at();
  const std::size_t same = own.retokenizer.push(std::span(own.tokens).subspan(own.pushed));
  own.kept = std::min(own.kept, same);
  own.told = std::min(own.told, same);
  own.pushed = own.tokens.size();
}

std::span<const TokenId> TranslatedModel::fresh() {
  push();
  const std::vector<TokenId>& tokens = at().retokenizer.tokens();
  const std::size_t told = std::exchange(at().told, tokens.size());
  return std::span(tokens).subspan(told);
}

bool TranslatedModel::read_all() {
  read(TreeModel::kAll);
  return !at().retokenizer.tokens().empty() && at().retokenizer.held().empty();
}

std::size_t TranslatedModel::unread() {
  push();
  Text& own = at();
  const std::vector<TokenId>& tokens = own.retokenizer.tokens();
  if (tokens.empty()) return 0;
  return model_->unread(tokens, std::exchange(own.kept, tokens.size()));
}

void TranslatedModel::read(std::size_t most) {
  if (unread() > 0) model_->follow(at().retokenizer.tokens(), at().kept, most);
}

TliDrafter::TliDrafter(Backend& backend, std::shared_ptr<TranslatedModel> model)
    : backend_(backend),
      model_(std::move(model)),
      all_rules_(static_cast<std::size_t>(model_->model().model().limits().places)),
      root_only_(DraftTree::with_room(backend, 1, 0)) {
  // Ids that are in no tree of ours, because the head has no row for them, map to anything.
  std::vector<TokenId> map = model_->alignment().to_target();
  std::replace(map.begin(), map.end(), VocabularyAlignment::kNone, TokenId{0});
  to_target_ = backend.allocate(map.size() * sizeof(TokenId));
  backend.upload(to_target_.as<void>(), map.data(), map.size() * sizeof(TokenId));
}

void TliDrafter::use_place(int place) {
  place_ = static_cast<std::size_t>(place);
  model_->use_place(place);
}

void TliDrafter::begin(const TextRules& rules) {
  all_rules_[place_] = rules;
  model_->begin(rules.reuse, rules.alone);
}

void TliDrafter::extend(const Extension& extension) {
  model_->extend(extension);
  observe(extension);
}

const DraftTree& TliDrafter::propose(Growth* growth) {
  if (!model_->read_all()) {
    root_only_.assign(backend_, std::array{model_->text().back()}, std::array<std::int32_t, 1>{-1});
    return root_only_;
  }
  const TextRules& rules = all_rules_[place_];
  TreeGrower& grower = model_->model().grow(rules, growth, to_target_.as<std::int32_t>());
  return growth != nullptr ? grower.select(*growth, model_->text().back(), model_->alignment().to_target())
                           : grower.select(rules.sequence);
}

std::optional<bool> TliDrafter::could_offer(TokenId token) const {
  const TokenId own = model_->alignment().to_drafter(token);
  if (own == VocabularyAlignment::kNone) return false;
  return model_->model().head().holds(own);
}

SlemDrafter::SlemDrafter(Backend& backend, std::shared_ptr<TranslatedModel> model, int size, int max_depth,
                         std::unique_ptr<DraftHead> head)
    : backend_(backend),
      model_(std::move(model)),
      head_(std::move(head)),
      are_chains_(static_cast<std::size_t>(model_->model().model().limits().places)),
      size_(static_cast<std::size_t>(size)),
      max_depth_(max_depth),
      tree_(DraftTree::with_room(backend, size, max_depth)) {}

void SlemDrafter::use_place(int place) {
  place_ = static_cast<std::size_t>(place);
  model_->use_place(place);
}

void SlemDrafter::begin(const TextRules& rules) {
  are_chains_[place_] = rules.rejection != nullptr;
  if (head_ && rules.alone) head_->begin();
  model_->begin(rules.reuse, rules.alone);
}

void SlemDrafter::extend(const Extension& extension) {
  model_->extend(extension);
  observe(extension);
}

void SlemDrafter::observe(const Extension& extension) {
  if (wanted_candidates() == 0) return;
  probable_.clear();
  for (const TokenId token : extension.candidates) {
    const TokenId own = model_->alignment().to_drafter(token);
    if (own != VocabularyAlignment::kNone) probable_.push_back(own);
  }
  head().observe({model_->fresh(), probable_});
}

const DraftTree& SlemDrafter::propose(Growth* growth) {
  trie_.begin(model_->text().back());
  if (model_->read_all()) {
    // Blind: which tokens of the target the noise would favour is not known before they are spelled.
    const TreeGrower& grower = model_->model().grow(head(), TextRules{}, growth);
    if (growth != nullptr) {
      candidates_ = grower.candidates();
    } else {
      read_pool(grower.pool());
    }
    find_context();
    translate_all(growth);
  }
  if (growth != nullptr) {
    trie_.prune(*growth, size_);
    tree_.assign(backend_, trie_.tokens(), trie_.parents(), trie_.notes());
  } else {
    tree_.assign(backend_, trie_.tokens(), trie_.parents());
  }
  return tree_;
}

void SlemDrafter::read_pool(const CandidatePool& pool) {
  const auto count = static_cast<std::size_t>(pool.capacity());
  std::vector<TokenId> tokens(count);
  std::vector<std::int32_t> parents(count);
  std::vector<float> scores(count);
  backend_.download(tokens.data(), pool.tokens, count * sizeof(TokenId));
  backend_.download(parents.data(), pool.parents, count * sizeof(std::int32_t));
  backend_.download(scores.data(), pool.scores, count * sizeof(float));
  candidates_.clear();
  for (std::size_t i = 0; i < count; ++i) candidates_.push_back({tokens[i], parents[i], scores[i], {}, -1});
}

// What stands before the drafted text decides where its first token begins.
void SlemDrafter::find_context() {
  const std::vector<TokenId>& text = model_->text();
  std::size_t first = text.size();
  context_.clear();
  constexpr std::size_t kContextTokens = 8;
  while (first > 0 && text.size() - first < kContextTokens &&
         model_->target().token_type(text[first - 1]) != TokenType::Control) {
    --first;
  }
  for (std::size_t i = first; i < text.size(); ++i) context_ += model_->target().token_bytes(text[i]);
  // A window may begin inside a character.
  std::size_t cut = 0;
  while (cut < context_.size() && (static_cast<unsigned char>(context_[cut]) & 0xC0) == 0x80) ++cut;
  context_.erase(0, cut);
  if (whole_characters(context_) != context_.size()) context_.clear();
}

std::vector<TokenId> SlemDrafter::translate_path(std::int32_t candidate) const {
  std::vector<TokenId> path;
  for (std::int32_t c = candidate; c >= 0; c = candidates_[static_cast<std::size_t>(c)].parent) {
    path.push_back(candidates_[static_cast<std::size_t>(c)].token);
  }
  std::reverse(path.begin(), path.end());
  return translate(path);
}

void SlemDrafter::translate_all(const Growth* growth) {
  std::vector<std::int32_t> order(candidates_.size());
  std::iota(order.begin(), order.end(), 0);
  // Several paths may become one: twice as many as the tree has nodes.
  const std::size_t most = std::min(order.size(), growth != nullptr ? kMostPaths : 2 * size_);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(most), order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const float left = candidates_[static_cast<std::size_t>(a)].score,
                                  right = candidates_[static_cast<std::size_t>(b)].score;
                      return left != right ? left > right : a < b;
                    });
  if (growth == nullptr) {
    // For rejection sampling the whole path alone: its beginnings may read otherwise, and a chain is wanted.
    for (std::size_t i = are_chains_[place_] ? most - 1 : 0; i < most; ++i) {
      trie_.add_path(translate_path(order[i]), size_, max_depth_);
    }
    return;
  }
  scores_.assign(1, 0.0f);
  for (std::size_t i = 0; i < most; ++i) {
    const float score = candidates_[static_cast<std::size_t>(order[i])].score;
    const std::vector<TokenId> tokens = translate_path(order[i]);
    std::int32_t node = 0;
    for (int depth = 1; depth <= std::min(max_depth_, static_cast<int>(tokens.size())); ++depth) {
      const float given = std::min(0.0f, score - scores_[static_cast<std::size_t>(node)]);
      node =
          trie_.add(node, tokens[static_cast<std::size_t>(depth) - 1], growth->judge(trie_.note(node), given, depth));
      if (static_cast<std::size_t>(node) == scores_.size()) scores_.push_back(score);
    }
  }
}

std::vector<TokenId> SlemDrafter::translate(std::span<const TokenId> drafted) const {
  const Tokenizer& drafter = model_->drafter();
  std::string bytes;
  TokenId closing = VocabularyAlignment::kNone;
  for (const TokenId id : drafted) {
    if (drafter.token_type(id) == TokenType::Control) {
      closing = model_->alignment().to_target(id);  // and nothing behind it
      break;
    }
    bytes += drafter.token_bytes(id);
  }
  const std::size_t whole = whole_characters(bytes);
  if (whole != bytes.size()) closing = VocabularyAlignment::kNone;
  std::vector<TokenId> result;
  if (whole > 0) result = encode_behind(model_->target(), context_, std::string_view(bytes).substr(0, whole));
  if (closing != VocabularyAlignment::kNone) result.push_back(closing);
  return result;
}

EitherTranslation::EitherTranslation(std::shared_ptr<TranslatedModel> model, std::unique_ptr<TliDrafter> tli,
                                     std::unique_ptr<SlemDrafter> slem)
    : model_(std::move(model)),
      tli_(std::move(tli)),
      slem_(std::move(slem)),
      tli_arms_(static_cast<int>(tli_->arms().size())) {}

void EitherTranslation::use_place(int place) {
  tli_->use_place(place);
  slem_->use_place(place);
}

void EitherTranslation::begin(const TextRules& rules) {
  tli_->begin(rules);
  slem_->begin(rules);
}

void EitherTranslation::extend(const Extension& extension) {
  model_->extend(extension);
  tli_->observe(extension);
  slem_->observe(extension);
}

std::vector<DraftArm> EitherTranslation::arms() const {
  std::vector<DraftArm> arms;
  for (const Drafter* one : {static_cast<const Drafter*>(tli_.get()), static_cast<const Drafter*>(slem_.get())}) {
    for (const DraftArm& arm : one->arms()) {
      arms.push_back({arm.head, one == tli_.get() ? "tli" : "slem", arm.rows});
    }
  }
  return arms;
}

void EitherTranslation::use_arm(int arm) {
  uses_slem_ = arm >= tli_arms_;
  used().use_arm(uses_slem_ ? arm - tli_arms_ : arm);
}

std::uint32_t EitherTranslation::holders(TokenId token) const {
  const std::uint32_t below = (1u << tli_arms_) - 1;
  return (tli_->holders(token) & below) | slem_->holders(token) << tli_arms_;
}

}  // namespace frspec
