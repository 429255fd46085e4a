// A step of several sequences: one pass of the target for the trees of those that are written, and for chunks of what
// others are still to read. What each is given is what it would be given alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/iteration.h"
#include "engine/parts.h"
#include "engine/pass_budget.h"
#include "engine/places.h"
#include "engine/prefill.h"

namespace frspec {

class Batch {
 public:
  Batch(EngineParts& parts, Places& places, Prefill& prefill, Iteration& iteration, PassBudget& budget);

  // In this order they are served; none is verified by rejection sampling.
  void step(std::span<Sequence* const> sequences);

 private:
  // What takes part in the step.
  struct Member {
    Sequence* sequence;
    Place* place;
    Step step = {};
    bool reads = false;                                   // it has still something to read
    std::int64_t border = 0;                              // of its tokens, behind which no chunk of that goes
    int chunk = 0;                                        // rows of that in this pass
    bool asks = false;                                    // whether the pass gives it a token
    std::vector<std::int32_t> tokens = {}, parents = {};  // of its rows; parents: of a tree
    TokenBits allowed = {};                               // by its grammar, behind what it has read
    int first = 0;                                        // row of the pass
    std::size_t asked = 0;                                // which of those that the verifier was asked about
  };

  void gather(std::span<Sequence* const> sequences);
  void join(Sequence& sequence);
  void give_chunks();
  void draft();
  void draft(Member& member, int room, int drafter_rows);
  void choose_teller(int rows);
  static bool tells_planner(const Member& member);
  void run();
  int forward();
  Verifier::Asked question(Member& member, int rows);
  void keep_border(const Member& member);
  void take(Member& member);

  EngineParts& parts_;
  Places& places_;
  Prefill& prefill_;
  Iteration& iteration_;
  PassBudget& budget_;
  std::vector<Member> members_;
};

}  // namespace frspec
