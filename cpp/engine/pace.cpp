// Whether drafting pays.
#include "engine/pace.h"

namespace frspec {

double Pace::gain() const {
  if (drafted_seconds_.count == 0 || plain_seconds_.count == 0) return 0.0;
  return drafted_tokens_.value / drafted_seconds_.value * plain_seconds_.value;
}

void Pace::begin(Phase phase, int steps) {
  phase_ = phase;
  left_ = steps;
}

void Pace::judge() {
  if (gain() >= 1.0) {
    pause_ = kFirstPause;
    begin(Phase::Draft, kWatch);
  } else {
    begin(Phase::Pause, pause_);
    pause_ = std::min(2 * pause_, kLongestPause);
  }
}

void Pace::add_step(bool drafted, double seconds, int tokens) {
  if (drafted) {
    drafted_seconds_.add(seconds);
    drafted_tokens_.add(tokens);
  } else {
    plain_seconds_.add(seconds);
  }
  if (--left_ > 0) return;
  switch (phase_) {
    case Phase::Trial:
      plain_seconds_.count == 0 ? begin(Phase::Measurement, kMeasurement) : judge();
      break;
    case Phase::Measurement:
      looks_ = 0;
      judge();
      break;
    case Phase::Draft:
      if (++looks_ < kLooks) {
        judge();
      } else {  // the text has grown, and plain steps with it
        plain_seconds_ = {};
        begin(Phase::Measurement, kMeasurement);
      }
      break;
    case Phase::Pause:
      drafted_seconds_ = {};
      drafted_tokens_ = {};
      begin(Phase::Trial, kTrial);
      break;
  }
}

}  // namespace frspec
