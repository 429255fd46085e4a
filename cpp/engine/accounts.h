// What steps have cost and what they have shown: for the planner, the sequences' statistics and their traces.
#pragma once

#include "engine/parts.h"
#include "engine/pass_budget.h"
#include "engine/places.h"
#include "engine/step.h"

namespace frspec {

class Accounts {
 public:
  Accounts(EngineParts& parts, PassBudget& budget);

  // What the device noted of it.
  void note_times(Step& step) const;
  // The step has given these tokens to the sequence of the place; the drafter has not been told of them: its head may
  // follow the text.
  void add(Sequence& sequence, Place& place, const Step& step, const Verdict& verdict);
  // It is over, and took so long all in all.
  void close(Sequence& sequence, const Place& place, bool reads, double seconds) const;
  // Whether the planner learns what it took.
  static bool tells_planner(const Sequence& sequence, const Step& step);

 private:
  StepTrace trace_of(const Sequence& sequence, Place& place, const Step& step, const Verdict& verdict);

  EngineParts& parts_;
  PassBudget& budget_;
  Tuner::Step tuned_;  // of the step that is told of
};

}  // namespace frspec
