// SLRS, string-level rejection sampling (Timor et al., 2502.05202, Algorithm 3): a drafter of short tokens (characters,
// bytes) proposes tokens of the target by the probability psi that what it writes next begins with them.
//
// psi sums over everything the drafter may write; we walk through the target's vocabulary as a trie of bytes. A path
// that leaves the trie has spelled the longest token on its way; paths that are not followed to their end, because
// others are more probable, count for the longest token they have reached. So psi is the exact law of a drafter that
// stops early, and drafts are drawn from it: rejection sampling with it is exact, and so is the keyed rule.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "draft/translated_drafter.h"

namespace frspec {

// The ordinary tokens of a vocabulary by their bytes.
class TokenTrie {
 public:
  explicit TokenTrie(const Tokenizer& tokenizer);
  static constexpr std::int32_t kRoot = 0, kOutside = -1;

  // The node behind `bytes`, from a node on; kOutside where no token goes on like that, and `*last` is then the last
  // node that was reached.
  std::int32_t walk(std::int32_t node, std::string_view bytes, std::int32_t* last) const;
  // The longest token that ends at a node or before it; VocabularyAlignment::kNone where there is none.
  TokenId longest(std::int32_t node) const { return longest_[static_cast<std::size_t>(node)]; }
  bool ends_token(std::int32_t node) const { return ends_[static_cast<std::size_t>(node)]; }
  bool is_leaf(std::int32_t node) const { return leaf_[static_cast<std::size_t>(node)]; }

 private:
  std::unordered_map<std::uint64_t, std::int32_t> children_;  // (node, byte)
  std::vector<TokenId> longest_;
  std::vector<bool> ends_, leaf_;
};

class SlrsDrafter final : public Drafter {
 public:
  // Chains of `levels` tokens. Throws InvalidInput for a drafter whose tokens are longer than a character: psi would be
  // a sum over exponentially many ways to spell a string.
  SlrsDrafter(Backend& backend, std::shared_ptr<TranslatedModel> model, int levels);
  static void check_tokens(const Tokenizer& drafter, const std::string& file);
  // What the drafter's model must have room for beside `limits`.
  static ModelLimits limits(ModelLimits limits, int levels);

  void use_place(int) override {}  // it follows one text: most_places()
  void begin(const TextRules& rules) override;
  void extend(const Extension& extension) override { model_->extend(extension); }
  std::size_t unread() override { return model_->unread(); }
  void read(std::size_t most) override { model_->read(most); }
  const DraftTree& propose(Growth* growth) override;
  std::vector<const Weight*> matrices() const override { return model_->model().matrices(); }

 private:
  // Something that the drafter may have written.
  struct Spelled {
    std::int32_t node;               // of the trie
    TokenId token;                   // the drafter's last
    double weight;                   // its probability
    std::vector<std::int32_t> path;  // cache slots of its tokens, but for the last while that is not read
    bool is_read;
  };

  // Fills candidates_ with psi behind what `from` spells (null: behind the text), best first.
  void find_psi(const Spelled* from);
  void add_children(const Spelled& parent, std::size_t row);
  Tensor read(std::span<Spelled*> states);
  void emit(TokenId token, double weight);
  std::size_t keyed_choice(int level) const;  // of candidates_

  Backend& backend_;
  std::shared_ptr<TranslatedModel> model_;
  TokenTrie trie_;
  int levels_, width_;
  TextRules rules_;
  DraftTree tree_;
  int used_slots_ = 0;
  std::vector<Spelled> spelled_;    // all that was reached in this search
  std::vector<std::int32_t> open_;  // of them: to be followed
  std::unordered_map<TokenId, double> psi_;
  std::vector<std::int32_t> candidate_ids_;
  std::vector<float> candidate_scores_;
  std::vector<std::int32_t> child_ids_;  // (rows, width) on the host
  std::vector<float> child_scores_;
  Buffer device_children_, device_candidates_, drawn_, proposal_memory_, row_memory_;
  Proposals proposals_;
};

}  // namespace frspec
