// The places of an engine: which sequence has which, and whose caches make room for whom. A sequence without a place is
// not lost: its tokens are read again when it has one (contract 8).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/guided_trees.h"
#include "engine/parts.h"
#include "engine/sequence.h"
#include "engine/step.h"

namespace frspec {

// What an engine keeps of a sequence that is running.
struct Place {
  Place(int which, DraftTree&& room) : number(which), tree(std::move(room)) {}

  int number;
  DraftTree tree;                  // of a step with others, or one that was cut
  std::uint64_t owner = 0;         // Sequence::id; 0: it is nobody's
  std::weak_ptr<const void> life;  // the owner's
  bool ended = false;              // the owner needs it no more
  bool kept = false;               // for the step that is running
  std::uint64_t used = 0;          // when
  bool begun = false;              // whether the text is what its caches are about
  bool read = false;               // whether they have all of it
  Sampler sampler;
  std::unique_ptr<GuidedTrees> guided;  // from the first sequence here on that has a grammar
  RejectionDraw rejection;
  DraftState draft;
  std::shared_ptr<const Text> text;  // the owner's, which outlives it here; null before it has begun
  std::int32_t committed = 0;        // tokens of it that the caches hold
  Reuse reuse;
  std::optional<Step> ahead;                // the step behind the one that is running, where it was begun already
  std::array<Tuner::Growing, 2> growing;    // of its steps, by their slots
  std::vector<StepTrace::Watched> watched;  // of the step that is running

  bool is_idle() const { return ended || life.expired(); }
  std::span<const TokenId> tokens() const { return text ? std::span(text->tokens) : std::span<const TokenId>(); }
  // Tokens that are still to be read.
  std::int64_t unread() const { return static_cast<std::int64_t>(tokens().size()) - committed; }
  // Committed tokens that are of no use to others: all but the last one that the sequence has, as if no more had been
  // accepted, since a drafter's pair there depends on the next one.
  std::int32_t unwanted() const;
};

class Places {
 public:
  explicit Places(EngineParts& parts);

  int count() const { return static_cast<int>(places_.size()); }
  // The place that all is about, and which it is from now on.
  Place& current() const { return *place_; }
  void use(Place& place);
  Place* of(const Sequence& sequence);  // null: it has none

  // A step begins, of these sequences, those in front being served first.
  void begin_step(std::span<Sequence* const> sequences);
  // Whether the step has several sequences.
  bool are_several() const { return order_.size() > 1; }
  // Sequences in front of this one keep what they have in this step; null: none does, yet.
  void keep_those_before(const Sequence* sequence);
  // Turns to the sequence's place, which it is given where it has none. False: others have all of them.
  bool enter(Sequence& sequence);
  // From now on the sequence in use has room for so many tokens, and the trees behind them. False: it would have to
  // take it from those that are served before it.
  [[nodiscard]] bool hold(std::int64_t tokens);
  // The sequence in use gives its place up, and waits.
  void wait(const Sequence& sequence);
  // Whether it waits, and nobody has given up anything since: it need not ask again.
  bool waits(const Sequence& sequence) const;
  // The sequence has ended. Its place may be others' as soon as somebody comes who wants one: until then it is not
  // known what of it is of use.
  void end(const Sequence& sequence);
  // Runs `use`; what it throws ends this sequence alone, and gives false.
  template <class Use>
  bool guard(Sequence& sequence, Use&& use);
  // The sequence can go on no more, and what it has left in the caches may be half a step's.
  void give_up(Sequence& sequence, std::exception_ptr error);
  // Nobody has the place any more, and what is in its caches is of no use.
  void drop(Place& place);
  void drop_all();
  // The caches are for passes that follow no sequence.
  void take_over();
  // A step is over: pages() tells of it.
  void note_pages();
  // Whether no other sequence than the one in use is being drafted.
  bool others_are_plain() const;
  // How the tokens of a sequence are chosen; `history`: those it has (device). Throws InvalidInput for what only the
  // model knows to be wrong.
  Sampler sampler_of(const Sequence& sequence, const std::int32_t* history) const;

  // From any thread: how often a sequence was displaced so far, and pages of the target's cache behind the last step.
  std::int64_t displaced() const { return displaced_.load(); }
  struct Pages {
    int all = 0;
    int held = 0;  // by sequences
    int kept = 0;  // that ended ones have left for others, or running ones share
  };
  Pages pages() const { return {all_pages_, held_pages_.load(), kept_pages_.load()}; }

  // For tests: texts lose their places, and caches what they have kept; the order of free pages is another one.
  void disturb();

 private:
  void share_all(std::span<const TokenId> next_prompt);
  Place* displaceable(const Place* own);
  void displace(Place& place);
  void leave(Place& place, std::span<const TokenId> next_prompt);
  void leave_ahead();
  std::vector<TokenId> held_tokens(const GenerateOptions& options) const;

  EngineParts& parts_;
  TargetRunner& runner_;
  std::vector<Place> places_;
  Place* place_;
  std::vector<std::uint64_t> order_;  // of the sequences of the step that is running
  std::uint64_t clock_ = 0;           // of Place::used
  bool taken_over_ = false;           // whether the place in use has all pages
  // Sequences that found no pages, and how often places had been given up by then.
  std::unordered_map<std::uint64_t, std::uint64_t> waiting_;
  std::uint64_t given_up_ = 0;
  std::atomic<std::int64_t> displaced_{0};
  int all_pages_;
  std::atomic<int> held_pages_{0}, kept_pages_{0};
};

template <class Use>
bool Places::guard(Sequence& sequence, Use&& use) {
  try {
    use();
    return true;
  } catch (...) {
    give_up(sequence, std::current_exception());
    return false;
  }
}

}  // namespace frspec
