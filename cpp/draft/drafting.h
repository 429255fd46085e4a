// A drafter in an engine: it is made here, told of what the target has committed, and asked for trees. It may be slow
// or wrong, but it may not end a sequence: where it fails, the sequence goes on without it. Calls are about the
// sequence of one place (use_place).
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
  int rows = 0;            // committed tokens whose states it has not read, since nobody asked it for drafts

  bool works() const { return wanted && error.empty(); }
};

struct DraftingParts {
  DrafterParts drafter;                         // what its states, clock and ranks are is added here
  int first_time_point = 0;                     // from there on the backend's time points are the drafter's
  std::shared_ptr<RankKeeper> ranks = nullptr;  // not null: ranked rows follow them
};

class Drafting {
 public:
  // With the head policy `head`. Throws InvalidInput as make_drafter and check_adapt do.
  Drafting(const DraftOptions& options, const std::string& head, const DraftingParts& parts);
  ~Drafting();

  // The place that all calls are about from now on.
  void use_place(int place);
  // A sequence begins. What the rules point to outlives it.
  void begin(DraftState& state, const TextRules& rules);
  // It has grown; told at once.
  void extend(DraftState& state, const Extension& extension);
  // The first `count` tokens of the prompt were in the target's cache.
  void resume(DraftState& state, std::int32_t count);
  // The drafter reads rows of the prompt, of which the target made `features` (CausalModel::features). `next` (device):
  // the token behind each.
  void read(DraftState& state, Tensor features, const std::int32_t* next);
  // It will read the `rows` accepted nodes of a tree, for whose nodes the target made `features`, when it is asked for
  // drafts (catch_up). `end`: behind the sequence's last token (device), the next root.
  void remember(DraftState& state, Tensor features, const VerdictView& verdict, int rows, const std::int32_t* end);
  void catch_up(DraftState& state, const std::int32_t* end);
  // Rows that it has to read before it can propose: such ones, or of the text, where it reads that by itself.
  int unread(DraftState& state);
  // It reads them, or the first `most` of the text's; how many. `end` as above.
  int read_ahead(DraftState& state, int most, const std::int32_t* end);
  // It reads what a verdict accepted that only the device knows: `path`, *count rows.
  void follow(DraftState& state, const TreeView& tree, const PathView& path, std::int32_t* count);
  // A tree behind the last token; null: the drafter has given up. `arm`: of arms(). `growth`: as Drafter's.
  const DraftTree* propose(DraftState& state, int arm, Growth* growth);

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
  void accept(DraftState& state, Tensor features, const std::int32_t* next);
  // Rows of the states that are to be read of the place's sequence.
  Tensor kept_states(int first, int rows) const;

  Backend& backend_;
  const CausalModel& target_;
  std::shared_ptr<StateRecord> states_;  // null: none are noted
  std::unique_ptr<HeadClock> clock_;
  std::string ranks_source_;
  std::unique_ptr<Drafter> drafter_;
  std::vector<TimedArm> arms_;
  int places_, place_ = 0;
  int room_;         // rows that can be read at once
  Buffer count_;     // (1) rows that are read
  Buffer features_;  // (places, room, feature_dim) states that the drafter has not read
};

}  // namespace frspec
