// One step of a sequence, as the papers have it: draft, verify, commit, accept.
#pragma once

#include "engine/accounts.h"
#include "engine/parts.h"
#include "engine/places.h"
#include "engine/proposer.h"
#include "engine/step.h"

namespace frspec {

class Iteration {
 public:
  Iteration(EngineParts& parts, Places& places, PassBudget& budget);

  // A step of the sequence of the place in use, whose prompt was read.
  void run(Sequence& sequence);

  // Its parts, for steps of several sequences. What to verify;
  void draft(const Sequence& sequence, Step& step) { proposer_.propose(sequence, step, nullptr); }
  // what the verdict gives to the sequence and its drafter;
  void take(Sequence& sequence, const Step& step, const Verdict& verdict);
  // and what is told of the step, or of the reading, once it is over.
  void close(Sequence& sequence, bool reads, double seconds);
  // The same of one that took no part, but may have ended.
  void close(Sequence& sequence);

  // Whether ranks that adapt count what is written: somebody wants it.
  void count(bool counts) { counts_ = counts; }

 private:
  Step next(Sequence& sequence);
  Step begin(Sequence& sequence, int slot, const Step* unseen);
  const VerdictView& verify(const Sequence& sequence, const Step& step);
  void note_logprobs(Sequence& sequence, const Step& step, int rows);
  void accept(Place& place, const Step& step, int rows);
  bool may_go_ahead(const Sequence& sequence, const Step& step) const;

  EngineParts& parts_;
  Places& places_;
  PassBudget& budget_;
  Proposer proposer_;
  Accounts accounts_;
  bool counts_ = true;
};

}  // namespace frspec
