#include "engine/pass_budget.h"

#include <algorithm>

namespace frspec {
namespace {

// So many that a row costs little more than in a large pass; and at least, where a user says how long texts may wait.
constexpr int kRowsBeside = 64, kLeastRowsBeside = 16;

}  // namespace

void PassBudget::note(int rows, int written, double seconds) {
  if (step_ms_ == 0) return;
  passes_.add(rows, seconds);
  written_ = written;
}

int PassBudget::rows_beside(int writers) const {
  if (step_ms_ == 0 || !passes_.is_known()) return std::min(kRowsBeside, batch_);
  const int least = std::min(kLeastRowsBeside, batch_);
  const int written = std::max(writers, written_);  // drafts among them
  double seconds = step_ms_ / 1000.0;
  if (passes_.is_known_up_to(written)) seconds = std::max(seconds, 2.0 * passes_(written));
  return passes_.rows_within(seconds, written + least, written + batch_) - written;
}

int PassBudget::drafter_rows() const { return step_ms_ == 0 ? kRowsBeside : kLeastRowsBeside; }

}  // namespace frspec
