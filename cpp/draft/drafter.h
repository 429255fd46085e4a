// A drafter proposes a tree of tokens that may follow the text. It may be wrong, never harmful: verification decides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/sequence_pages.h"
#include "tokenizer/tokenizer.h"
#include "tree/draft_tree.h"

namespace frspec {

class DraftHead;
struct TextNews;

// What a sequence has more, on the host.
struct Extension {
  std::span<const TokenId> tokens;     // the new ones, the first time the prompt among them; the last is the next root
  std::span<const TokenId> committed;  // that the target has processed for good with them: the root before, and so on
  // Tokens that the target found probable after these, where the drafter wants to know: the likeliest last.
  std::span<const TokenId> candidates = {};

  TextNews news() const;
};

// Tokens that the target has processed for good since the last call, and what it made of them, on the device.
struct Committed {
  int rows = 0;  // how many; the host's copy of *count
  std::int32_t* count = nullptr;
  Tensor features;                     // (rows, feature_dim) the target's states (CausalModel::features)
  const std::int32_t* next = nullptr;  // (rows) the token that follows each of them in the sequence
  // Where the host does not know yet what was accepted: `rows` is the most there may be, rows from *count on stand for
  // nothing, and *last (device) is the last that is there. Null: all rows are there.
  const std::int32_t* last = nullptr;
};

// What a drafter may know about a sequence.
struct TextRules {
  const SamplerChain* chain = nullptr;  // how its tokens are chosen; they outlive the text
  Sampling draw;                        // at temperature 0 there is no noise
  SequenceView sequence = {};           // its tokens; the last of them is the root of the next tree
  // Not null: the text is verified by rejection sampling. The trees must be chains then, drawn from with these numbers
  // (they change with every step); what they were drawn from goes along (DraftTree::proposals).
  const RejectionDraw* rejection = nullptr;
  Reuse reuse;  // what may be used that earlier sequences have left in a drafter's own cache
  // Whether no other sequence is being drafted: what a head has learned of earlier ones is forgotten then.
  bool alone = true;
  std::size_t most = 0;                  // tokens that it may have on its way, at most; 0: not known
  std::vector<TokenId> prediction = {};  // what may stand in it, said by who asked for it
};

// A way of drafting: a draft head, and how its tokens become the target's where that can be chosen.
struct DraftArm {
  std::string head = {};         // the policy; empty: the one that the drafter was made with
  std::string translation = {};  // "tli", "slem"; empty: there is no choice
  DraftHead* rows = nullptr;     // the head itself
};

// Those of a drafter whose head alone can be chosen.
std::vector<DraftArm> arms_of(DraftHead& head);

class Drafter {
 public:
  virtual ~Drafter() = default;

  // From now on all calls are about the sequence of another place, 0 or one below DrafterParts::places: what a drafter
  // was told is kept apart for each.
  virtual void use_place(int place) = 0;
  // A sequence begins. What the rules point to outlives it.
  virtual void begin(const TextRules& rules) = 0;
  // The sequence grew. Called behind the prompt and behind every step, as soon as the host knows it.
  virtual void extend(const Extension& extension) = 0;
  // Whether the drafter continues the target's states. Then accept() brings them, for every chunk of the prompt and for
  // all steps since the last call before propose() is called: in order, but not at once.
  virtual bool reads_states() const { return false; }
  virtual void accept(const Committed&) {}
  // What it keeps of the states lies in the target's pages. The first `count` tokens of a sequence that begins lie
  // there already, from an earlier one: it is told of the others only.
  virtual void resume(std::int32_t /*count*/) {}
  // Whether it drafts from what is on the device alone: accept() and propose() may be called before the host knows what
  // the sequence has more (Committed::last), and extend() comes behind them.
  virtual bool follows_device() const { return false; }
  // Of a drafter that reads the text by itself: tokens that it has to read before it can propose. Those that it finds
  // in its own cache are not among them.
  virtual std::size_t unread() { return 0; }
  // It reads the first `most` of them now.
  virtual void read(std::size_t /*most*/) {}
  // Whether proposing may cost nothing but a look at the text.
  virtual bool repeats() const { return false; }
  // A tree whose root is the sequence's last token, the one that the target has not processed yet. It is there until
  // the next call, of whatever place. `growth` decides how far it grows; null: it has the shape that the drafter was
  // made with.
  virtual const DraftTree& propose(Growth* growth) = 0;

  // The ways of drafting that there are, the one that misses least first; none where it only looks at the text
  // (repeats): it is asked wherever trees grow. And the one that is used from now on.
  virtual std::vector<DraftArm> arms() const { return {DraftArm{}}; }
  virtual void use_arm(int /*arm*/) {}
  // Arms whose heads hold a token of the target now, or cannot say: a bit for each.
  virtual std::uint32_t holders(TokenId) const { return ~0u; }
  // Whether its head could have offered a token of the target in the last tree, before extend() is called again.
  // Nothing: it cannot say, or drafts without a head.
  virtual std::optional<bool> could_offer(TokenId) const { return std::nullopt; }
  // How many of the target's most probable tokens after each committed one extend() is to be told of.
  virtual int wanted_candidates() const { return 0; }
  // Every matrix that growing one level of a tree multiplies with, the head's rows last.
  virtual std::vector<const Weight*> matrices() const { return {}; }
};

}  // namespace frspec
