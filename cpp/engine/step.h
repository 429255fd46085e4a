// A step of a sequence, from the drafts to the verdict.
#pragma once

#include <vector>

#include "engine/tuner.h"
#include "tree/draft_tree.h"
#include "tree/limited_growth.h"
#include "verify/verifier.h"

namespace frspec {

// What the device was given to do for one sequence.
struct Step {
  DraftLimits limits;  // of its tree
  Tuner::Plan plan;
  Tuner::Pass pass;
  const Tuner::Growing* growing = nullptr;  // of its tree, where that grew as far as pays
  bool pass_is_counted = false;             // whether another text's step tells what the pass took
  int piece = 0;                            // rows that the drafter may read before, beside those of a step
  int read_rows = 0;                        // rows that it did
  const DraftTree* tree = nullptr;
  const VerdictView* verdict = nullptr;
  bool drafted = false;        // by the drafter
  std::vector<TokenId> run{};  // that the grammar forces
  bool forced = false;         // whether it is the tree
  bool is_first = false;       // its root is the last token of what is read
  int slot = 0;                // where its verdict is posted
  Tensor states, features;     // the target's of the tree's nodes: hidden() and features()
  double read_seconds = 0.0, grown_seconds = 0.0, target_seconds = 0.0, head_seconds = 0.0;
};

}  // namespace frspec
