#include "draft/slrs_drafter.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace frspec {
namespace {

constexpr int kFollowed = 8;              // paths that are followed at once
constexpr int kPasses = 8;                // tokens of the drafter that a token of the target may be, at most
constexpr double kLeastWeight = 1e-3;     // less probable paths are not followed
constexpr int kProposed = 64;             // tokens of the target that psi is kept for
constexpr std::size_t kLongestToken = 4;  // bytes: a character
constexpr int kPathRoom = 1024;

}  // namespace

TokenTrie::TokenTrie(const Tokenizer& tokenizer) : longest_{VocabularyAlignment::kNone}, ends_{false}, leaf_{true} {
  for (TokenId id = 0; id < tokenizer.size(); ++id) {
    const TokenType type = tokenizer.token_type(id);
    if (type != TokenType::Normal && type != TokenType::UserDefined && type != TokenType::Byte) continue;
    std::int32_t node = kRoot;
    for (const char c : tokenizer.token_bytes(id)) {
      const std::uint64_t key = std::uint64_t{static_cast<std::uint32_t>(node)} << 8 | static_cast<unsigned char>(c);
      const auto [child, is_new] = children_.emplace(key, static_cast<std::int32_t>(longest_.size()));
      if (is_new) {
        leaf_[static_cast<std::size_t>(node)] = false;
        longest_.push_back(VocabularyAlignment::kNone);
        ends_.push_back(false);
        leaf_.push_back(true);
      }
      node = child->second;
    }
    const auto at = static_cast<std::size_t>(node);
    if (node == kRoot || (ends_[at] && type == TokenType::Byte))
      continue;  // an ordinary token of the same bytes stands
    ends_[at] = true;
    longest_[at] = id;
  }
  // Children come after their parents.
  std::vector<std::int32_t> parents(longest_.size(), kOutside);
  for (const auto& [key, child] : children_) {
    parents[static_cast<std::size_t>(child)] = static_cast<std::int32_t>(key >> 8);
  }
  for (std::size_t i = 1; i < longest_.size(); ++i) {
    if (!ends_[i]) longest_[i] = longest_[static_cast<std::size_t>(parents[i])];
  }
}

std::int32_t TokenTrie::walk(std::int32_t node, std::string_view bytes, std::int32_t* last) const {
  for (const char c : bytes) {
    const std::uint64_t key = std::uint64_t{static_cast<std::uint32_t>(node)} << 8 | static_cast<unsigned char>(c);
    const auto child = children_.find(key);
    if (child == children_.end()) {
      *last = node;
      return kOutside;
    }
    node = child->second;
  }
  *last = node;
  return node;
}

void SlrsDrafter::check_tokens(const Tokenizer& drafter, const std::string& file) {
  for (TokenId id = 0; id < drafter.size(); ++id) {
    if (drafter.token_type(id) == TokenType::Control) continue;
    const std::string& bytes = drafter.token_bytes(id);
    if (bytes.size() > kLongestToken && drafter.token_type(id) != TokenType::Unknown) {
      fail("translate: found slrs, but token ", id, " of ", file, " spells ", bytes.size(), " bytes, expected at most ",
           kLongestToken,
           ": psi sums over all ways to spell a string, which only drafters of characters or bytes make "
           "few; 'slem' and 'tli' work with any drafter");
    }
  }
}

ModelLimits SlrsDrafter::limits(ModelLimits limits, int levels) {
  limits.tree = std::max(limits.tree, levels * (kFollowed * kPasses + 1));
  limits.rows = std::max(limits.rows, kFollowed);
  limits.depth = std::max(limits.depth, levels * (kPasses + 1) + 1);
  return limits;
}

SlrsDrafter::SlrsDrafter(Backend& backend, std::shared_ptr<TranslatedModel> model, int levels)
    : backend_(backend),
      model_(std::move(model)),
      trie_(model_->target()),
      levels_(levels),
      width_(std::min(kProposed, model_->model().head().size())),
      tree_(DraftTree::with_room(backend, levels + 1, levels)) {
  const auto words = [&](std::int64_t count) {
    return backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(count));
  };
  const std::int64_t children = std::int64_t{kFollowed} * width_;
  child_ids_.resize(static_cast<std::size_t>(children));
  child_scores_.resize(static_cast<std::size_t>(children));
  device_children_ = words(2 * children);
  device_candidates_ = words(2 * kProposed);
  drawn_ = words(2);
  row_memory_ = words(kFollowed * (2 + kPathRoom));
  proposal_memory_ = words(std::int64_t{2} * kProposed * levels);
  proposals_ = {kProposed, proposal_memory_.as<std::int32_t>(),
                proposal_memory_.as<float>() + std::int64_t{kProposed} * levels};
}

void SlrsDrafter::begin(const TextRules& rules) {
  rules_ = rules;
  model_->begin(rules.reuse, rules.alone);
}

void SlrsDrafter::emit(TokenId token, double weight) {
  if (token != VocabularyAlignment::kNone) psi_[token] += weight;
}

// Where the drafter's next tokens lead from a state, given its row of child_ids_ and child_scores_.
void SlrsDrafter::add_children(const Spelled& parent, std::size_t row) {
  const Tokenizer& drafter = model_->drafter();
  for (int i = 0; i < width_; ++i) {
    const std::size_t at = row * static_cast<std::size_t>(width_) + static_cast<std::size_t>(i);
    const TokenId token = child_ids_[at];
    const double weight = parent.weight * std::exp(static_cast<double>(child_scores_[at]));
    if (drafter.token_type(token) == TokenType::Control) {
      const TokenId closing = model_->alignment().to_target(token);
      emit(parent.node == TokenTrie::kRoot ? closing : trie_.longest(parent.node), weight);
      continue;
    }
    std::int32_t last = TokenTrie::kRoot;
    const std::int32_t node = trie_.walk(parent.node, drafter.token_bytes(token), &last);
    if (node == TokenTrie::kOutside || drafter.token_bytes(token).empty()) {
      emit(trie_.longest(last), weight);
      continue;
    }
    spelled_.push_back({node, token, weight, parent.path, false});
    if (trie_.is_leaf(node)) {
      emit(trie_.longest(node), weight);  // nothing longer begins like this
    } else {
      open_.push_back(static_cast<std::int32_t>(spelled_.size()) - 1);
    }
  }
}

// Reads the last token of each state behind its path.
Tensor SlrsDrafter::read(std::span<Spelled*> states) {
  const auto count = states.size();
  std::size_t stride = 0;
  for (Spelled* state : states) {
    state->path.push_back(used_slots_++);
    state->is_read = true;
    stride = std::max(stride, state->path.size());
  }
  std::vector<std::int32_t> rows(count * (2 + stride), 0);  // tokens, depths, paths
  for (std::size_t i = 0; i < count; ++i) {
    rows[i] = states[i]->token;
    rows[count + i] = static_cast<std::int32_t>(states[i]->path.size()) - 1;
    std::copy(states[i]->path.begin(), states[i]->path.end(),
              rows.begin() + static_cast<std::ptrdiff_t>(2 * count + i * stride));
  }
  auto* memory = row_memory_.as<std::int32_t>();
  backend_.upload(memory, rows.data(), rows.size() * sizeof(std::int32_t));
  return model_->model().extend(memory, static_cast<int>(count), used_slots_ - static_cast<int>(count), memory + count,
                                memory + 2 * count, static_cast<int>(stride));
}

void SlrsDrafter::find_psi(const Spelled* from) {
  psi_.clear();
  open_.clear();
  Spelled start{TokenTrie::kRoot, 0, 1.0, {}, false};
  Tensor hidden = model_->model().last_state();
  if (from != nullptr) {
    start.token = from->token;
    start.path = from->path;
    if (from->is_read) start.path.pop_back();  // it is read again: its state is gone
    Spelled* one = &start;
    hidden = read({&one, 1});
  }
  spelled_.clear();  // `from` was one of them
  std::vector<std::int32_t> followed;
  std::vector<Spelled> parents{start};
  for (int pass = 0;; ++pass) {
    auto* ids = device_children_.as<std::int32_t>();
    auto* scores = device_children_.as<float>() + child_ids_.size();
    model_->model().head().top_k(hidden, {.ids = ids, .scores = scores, .k = width_}, std::nullopt);
    const std::size_t count = parents.size() * static_cast<std::size_t>(width_);
    backend_.download(child_ids_.data(), ids, count * sizeof(std::int32_t));
    backend_.download(child_scores_.data(), scores, count * sizeof(float));
    for (std::size_t row = 0; row < parents.size(); ++row) add_children(parents[row], row);
    if (pass == kPasses || open_.empty()) break;
    // The most probable paths are followed.
    const auto most = std::min<std::size_t>(kFollowed, open_.size());
    std::partial_sort(open_.begin(), open_.begin() + static_cast<std::ptrdiff_t>(most), open_.end(),
                      [this](std::int32_t a, std::int32_t b) {
                        const double left = spelled_[static_cast<std::size_t>(a)].weight;
                        const double right = spelled_[static_cast<std::size_t>(b)].weight;
                        return left != right ? left > right : a < b;
                      });
    followed.clear();
    std::vector<Spelled*> states;
    for (std::size_t i = 0; i < most; ++i) {
      Spelled& state = spelled_[static_cast<std::size_t>(open_[i])];
      if (state.weight < kLeastWeight) break;
      followed.push_back(open_[i]);
      states.push_back(&state);
    }
    if (states.empty()) break;
    open_.erase(open_.begin(), open_.begin() + static_cast<std::ptrdiff_t>(followed.size()));
    hidden = read(states);
    parents.clear();
    for (const std::int32_t at : followed) parents.push_back(spelled_[static_cast<std::size_t>(at)]);
  }
  for (const std::int32_t at : open_) {
    emit(trie_.longest(spelled_[static_cast<std::size_t>(at)].node), spelled_[static_cast<std::size_t>(at)].weight);
  }
  std::vector<std::pair<double, TokenId>> sorted;
  double total = 0.0;
  for (const auto& [token, weight] : psi_) {
    sorted.emplace_back(weight, token);
    total += weight;
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
  sorted.resize(std::min<std::size_t>(sorted.size(), kProposed));
  candidate_ids_.clear();
  candidate_scores_.clear();
  for (const auto& [weight, token] : sorted) {
    candidate_ids_.push_back(token);
    candidate_scores_.push_back(static_cast<float>(std::log(weight / total)));
  }
}

// What the keyed rule would draw from psi.
std::size_t SlrsDrafter::keyed_choice(int level) const {
  std::int32_t root = 0;
  backend_.download(&root, rules_.sequence.length, sizeof root);
  std::size_t best = 0;
  float most = 0.0f;
  for (std::size_t i = 0; i < candidate_ids_.size(); ++i) {
    const float value = candidate_scores_[i] / rules_.draw.temperature +
                        gumbel(rules_.draw.seed, static_cast<std::uint64_t>(root + level + 1),
                               static_cast<std::uint32_t>(candidate_ids_[i]));
    if (i == 0 || value > most) {
      most = value;
      best = i;
    }
  }
  return best;
}

const DraftTree& SlrsDrafter::propose(Growth* growth) {
  std::vector<std::int32_t> tokens{model_->text().back()}, parents{-1};
  std::vector<NodeNote> notes(1);
  std::vector<float> chances;
  used_slots_ = 0;
  spelled_.clear();
  const Spelled* from = nullptr;
  Spelled kept{};
  const bool can_draft = model_->read_all();
  for (int level = 0; can_draft && level < levels_; ++level) {
    find_psi(from);
    if (candidate_ids_.empty()) break;
    std::size_t chosen = 0;
    TokenId drawn = candidate_ids_[0];
    if (rules_.rejection != nullptr) {
      auto* ids = device_candidates_.as<std::int32_t>();
      auto* scores = device_candidates_.as<float>() + kProposed;
      backend_.upload(ids, candidate_ids_.data(), candidate_ids_.size() * sizeof(std::int32_t));
      backend_.upload(scores, candidate_scores_.data(), candidate_scores_.size() * sizeof(float));
      auto* token = drawn_.as<std::int32_t>();
      backend_.draw_proposal(token, drawn_.as<float>() + 1, proposals_, level, ids, scores,
                             static_cast<int>(candidate_ids_.size()), *rules_.chain, *rules_.rejection,
                             rules_.sequence.length);
      backend_.download(&drawn, token, sizeof drawn);
    } else if (rules_.draw.temperature > 0.0f) {
      chosen = keyed_choice(level);
      drawn = candidate_ids_[chosen];
    }
    parents.push_back(static_cast<std::int32_t>(tokens.size()) - 1);
    tokens.push_back(drawn);
    if (growth != nullptr) {
      notes.push_back(growth->judge(notes.back(), candidate_scores_[chosen], level + 1));
      chances.push_back(notes.back().chance);
      if (level + 1 < levels_ && growth->width({&notes.back(), 1}, chances) == 0) break;
    }
    // Go on behind the most probable way to spell it, if there is one.
    from = nullptr;
    for (const Spelled& state : spelled_) {
      if (trie_.ends_token(state.node) && trie_.longest(state.node) == drawn &&
          (from == nullptr || state.weight > from->weight)) {
        from = &state;
      }
    }
    if (from == nullptr || from->path.size() + kPasses + 2 > kPathRoom) break;
    kept = *from;
    from = &kept;
  }
  if (growth != nullptr) {
    const auto size = std::min(chances.size(), static_cast<std::size_t>(growth->size(chances))) + 1;
    tokens.resize(size);
    parents.resize(size);
    notes.resize(size);
    tree_.assign(backend_, tokens, parents, notes);
  } else {
    tree_.assign(backend_, tokens, parents);
  }
  tree_.set_proposals(rules_.rejection != nullptr ? &proposals_ : nullptr);
  return tree_;
}

}  // namespace frspec
