// The ways of drafting that can be chosen, with what their heads cost: all that a tuner needs of them.
#pragma once

#include <string>
#include <vector>

#include "draft/drafter.h"

namespace frspec {

// A draft head, and the translation of its tokens where there is a choice. Arms of one translation draft alike but for
// the rows that their heads lack.
struct TimedArm {
  std::string head = {};
  std::string translation = {};
  // Seconds that the head takes for one state, and for each state more; 0 where there is only one arm.
  double root_seconds = 0.0;
  double row_seconds = 0.0;
};

// Those of a drafter that was made with the policy `head`. Where there are several, their heads are run a few times.
std::vector<TimedArm> time_arms(Backend& backend, const Drafter& drafter, const std::string& head,
                                const TreeShape& tree);

}  // namespace frspec
