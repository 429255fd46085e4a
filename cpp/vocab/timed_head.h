// Notes how long a head works, for the record of a text's steps.
#pragma once

#include <memory>

#include "vocab/draft_head.h"

namespace frspec {

// Adds up the time of a head's calls while it runs; otherwise it notes nothing.
class HeadClock {
 public:
  // It has the backend's time points from `first` on, up to `last`, which is not its own.
  HeadClock(Backend& backend, int first, int last) : backend_(backend), first_(first), most_((last - first) / 2) {}

  // Begins anew, or stops.
  void run(bool runs) {
    runs_ = runs;
    calls_ = 0;
    seconds_ = 0.0;
  }
  // Of all calls since then; only after a download or a collected post that was called behind them.
  double seconds();

  template <class Work>
  void time(Work&& work) {
    if (!runs_) return work();
    make_room();
    Instruments& instruments = backend_.instruments();
    instruments.note_time(first_ + 2 * calls_);
    work();
    instruments.note_time(first_ + 2 * calls_ + 1);
    ++calls_;
  }

 private:
  void make_room();

  Backend& backend_;
  int first_, most_;  // calls that there are points for
  bool runs_ = false;
  int calls_ = 0;         // that were noted
  double seconds_ = 0.0;  // of calls before them
};

// `head`, which works as it did. The clock outlives it.
std::unique_ptr<DraftHead> make_timed_head(std::unique_ptr<DraftHead> head, HeadClock& clock);

}  // namespace frspec
