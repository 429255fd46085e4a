// A drafter proposes a tree of tokens that may follow the text. It may be wrong, never harmful: verification decides.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "tokenizer/tokenizer.h"
#include "tree/draft_tree.h"
#include "vocab/draft_head.h"

namespace frspec {

// Tokens that the target has processed for good since the last call, and what it made of them (device memory).
struct Committed {
  int rows = 0;  // how many; the host's copy of *count
  const std::int32_t* count = nullptr;
  Tensor features;                     // (rows, feature_dim) the target's states (CausalModel::features)
  const std::int32_t* next = nullptr;  // (rows) the token that follows each of them in the text
  // The same on the host, for drafters that look at text.
  std::span<const TokenId> tokens = {};  // (rows) the processed tokens themselves
  TokenId next_token = 0;                // that follows the last of them: the root of the next tree
  // Tokens that the target found probable after these, where the drafter wants to know: the likeliest last.
  std::span<const TokenId> candidates = {};

  // Where the host does not know yet what was accepted: `rows` is the most there may be, rows from *count on stand for
  // nothing, *last (device) is the last that is there, and what the host has is empty. Null: all rows are there.
  const std::int32_t* last = nullptr;

  TextNews news() const { return {tokens, candidates}; }
};

// What a drafter may know about a text.
struct TextRules {
  const SamplerChain* chain = nullptr;     // how its tokens are chosen; they outlive the text
  Sampling draw;                           // at temperature 0 there is no noise
  const std::int32_t* position = nullptr;  // device: where the root of the next tree stands
  // Not null: the text is verified by rejection sampling. The trees must be chains then, drawn from with these numbers
  // (they change with every step); what they were drawn from goes along (DraftTree::proposals).
  const RejectionDraw* rejection = nullptr;
};

// A way of drafting: a draft head, and how its tokens become the target's where that can be chosen.
struct DraftArm {
  std::string head = {};         // the policy; empty: the one that the drafter was made with
  std::string translation = {};  // "tli", "slem"; empty: there is no choice
  DraftHead* rows = nullptr;     // the head itself
};

// Those of a drafter whose head alone can be chosen.
inline std::vector<DraftArm> arms_of(DraftHead& head) {
  std::vector<DraftArm> arms;
  for (const HeadChoice& choice : head.choices()) arms.push_back({choice.name, {}, choice.head});
  if (arms.empty()) arms.push_back({{}, {}, &head});
  return arms;
}

class Drafter {
 public:
  virtual ~Drafter() = default;

  // A new text begins. What the rules point to outlives it.
  virtual void begin(const TextRules& rules) = 0;
  // The text grew. Called for every chunk of the prompt and after every step, in order.
  virtual void accept(const Committed& committed) = 0;
  // The text has these tokens more. Called at once after every step, the first time with the prompt and the first
  // token; accept() may come some steps later.
  virtual void extend(std::span<const TokenId> /*tokens*/) {}
  // Whether there may be something to propose without accept(): from what extend() told alone.
  virtual bool repeats() const { return false; }
  // Whether accept() takes what the host does not know yet (Committed::last). observe() tells it afterwards what it
  // was.
  virtual bool follows_device() const { return false; }
  virtual void observe(const TextNews&) {}
  // A tree whose root is the text's last token, `*root` (device), the one that the target has not processed yet.
  // `growth` decides how far it grows; null: it has the shape that the drafter was made with.
  virtual const DraftTree& propose(const std::int32_t* root, Growth* growth) = 0;

  // The ways of drafting that there are, the one that misses least first, and the one that is used from now on.
  virtual std::vector<DraftArm> arms() const { return {}; }
  virtual void use(int /*arm*/) {}
  // Arms whose heads hold a token of the target now, or cannot say: a bit for each.
  virtual std::uint32_t holders(TokenId) const { return ~0u; }
  // Whether its head could have offered a token of the target in the last tree, before accept() is called again.
  // Nothing: it cannot say, or drafts without a head.
  virtual std::optional<bool> could_offer(TokenId) const { return std::nullopt; }
  // How many of the target's most probable tokens after each row accept() wants to hear of.
  virtual int wanted_candidates() const { return 0; }
  // Every matrix that growing one level of a tree multiplies with, the head's rows last.
  virtual std::vector<const Weight*> matrices() const { return {}; }
};

}  // namespace frspec
