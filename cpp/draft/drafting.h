// A drafter in an engine: it is made here, told of what the target has committed, and asked for trees. It may be slow
// or wrong, but it may not end a sequence: where it fails, the sequence goes on without it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "draft/adapt.h"
#include "draft/arms.h"
#include "draft/drafter.h"
#include "draft/make_drafter.h"
#include "draft/options.h"

namespace frspec {

// What a drafter has been told of one sequence, and what it has not.
struct DraftState {
  bool wanted = false;     // whether the sequence is to be drafted at all
  std::string error = {};  // why the drafter gave up; empty: it did not
  // Committed tokens that it has not read, since nobody asked it for drafts, and the tokens that follow them.
  int rows = 0;
  std::vector<TokenId> next = {};

  bool works() const { return wanted && error.empty(); }
};

struct DraftingParts {
  Backend& backend;
  const CausalModel& target;
  std::shared_ptr<const Tokenizer> tokenizer;  // the target's
  std::shared_ptr<const GgufFile> file;        // the drafter's; null: n-grams alone
  int context = 0;                             // tokens of a sequence, at most
  int batch = 0;
  int first_time_point = 0;                   // from there on the backend's time points are the drafter's
  std::shared_ptr<RankKeeper> ranks;          // not null: ranked rows follow them
  std::function<void(std::size_t)> on_bytes;  // as WeightLoader's
};

class Drafting {
 public:
  // With the head policy `head`. Throws InvalidInput as make_drafter and check_adapt do.
  Drafting(const DraftOptions& options, const std::string& head, const DraftingParts& parts);
  ~Drafting();

  // A sequence begins. What the rules point to outlives it.
  void begin(DraftState& state, const TextRules& rules);
  // It has grown; told at once.
  void extend(DraftState& state, const Extension& extension);
  // Rows of the prompt, whose states are those of the target's last pass; `next`: the token behind each.
  void read(DraftState& state, std::span<const TokenId> next);
  // The accepted nodes of the tree that was the target's last pass: the drafter reads them when it is asked for drafts
  // (catch_up). `next`: the token behind each.
  void remember(DraftState& state, const TreeView& tree, const VerdictView& verdict, std::span<const TokenId> next);
  void catch_up(DraftState& state);
  // Reads what a verdict accepted that only the device knows.
  void follow(DraftState& state, const TreeView& tree, const VerdictView& verdict);
  // A tree behind *root (device); null: the drafter has given up. `arm`: of arms(). `growth`: as Drafter's.
  const DraftTree* propose(DraftState& state, const std::int32_t* root, int arm, Growth* growth);

  const std::vector<TimedArm>& arms() const { return arms_; }
  const Drafter& drafter() const { return *drafter_; }
  // Where the ranks come from that its head's rows follow; empty: they follow none.
  const std::string& ranks_source() const { return ranks_source_; }
  // Whether the time of its head is noted from now on; and the seconds since then, once the step is over.
  void time_head(bool timed);
  double head_seconds();
  // The states that were noted (DraftOptions::states) since the last call: (count, dim) each.
  std::pair<std::vector<float>, std::size_t> take_states();
  void forget_states();

 private:
  template <class Use>
  void guard(DraftState& state, Use&& use);
  void accept(DraftState& state, Tensor features, std::span<const TokenId> next);

  Backend& backend_;
  const CausalModel& target_;
  std::shared_ptr<StateRecord> states_;  // null: none are noted
  std::unique_ptr<HeadClock> clock_;
  std::string ranks_source_;
  std::unique_ptr<Drafter> drafter_;
  std::vector<TimedArm> arms_;
  int room_;         // rows that can be read at once
  Buffer count_;     // (1) rows that are read
  Buffer next_ids_;  // (room) tokens that follow them
  Buffer features_;  // (room, feature_dim) states that the drafter has not read
  Buffer path_;      // (max_depth + 1, twice, and 1) of a verdict that the host has not seen
};

}  // namespace frspec
