// How many rows of prompts come along with texts that are being written, which wait for them.
#pragma once

#include "engine/costs.h"

namespace frspec {

class PassBudget {
 public:
  // `step_ms`: as EngineOptions; `batch`: most rows of a prompt.
  PassBudget(int step_ms, int batch) : step_ms_(step_ms), batch_(batch) {}

  // What a pass took. `written`: its rows without those of prompts.
  void note(int rows, int written, double seconds);
  // Rows beside so many texts that are written.
  int rows_beside(int writers) const;
  // Rows that a drafter reads beside a pass, of all texts.
  int drafter_rows() const;

 private:
  int step_ms_, batch_;
  RowCosts passes_{0.0, 0.1, false};  // of all kinds
  int written_ = 0;                   // of the latest pass
};

}  // namespace frspec
