// Whether drafting pays: watched while a text is written. Where it costs more than it gives it pauses, and is tried
// again now and then; the text does not depend on it.
#pragma once

#include <algorithm>

namespace frspec {

class Pace {
 public:
  // Whether the next step should draft.
  bool drafts() const { return phase_ == Phase::Trial || phase_ == Phase::Draft; }

  // A step took `seconds`, drafting included, and gave `tokens`.
  void add_step(bool drafted, double seconds, int tokens);

  // Tokens per second with drafts over those without, as far as known; 0 before both were seen.
  double gain() const;

 private:
  // A trial of drafting, then plain steps to compare it with; after that drafting or a pause, each ended by the next
  // measurement or trial.
  enum class Phase { Trial, Measurement, Draft, Pause };

  // Means in which the latest steps count most.
  struct Mean {
    double value = 0.0;
    int count = 0;
    void add(double x) {
      ++count;
      const double weight = std::max(1.0 / count, 1.0 / kMemory);
      value += weight * (x - value);
    }
  };
  static constexpr int kMemory = 16;
  static constexpr int kTrial = 6;        // steps of a trial
  static constexpr int kMeasurement = 3;  // steps of a measurement
  static constexpr int kWatch = 16;       // drafted steps between two looks at the gain
  static constexpr int kLooks = 16;       // such looks between two measurements
  static constexpr int kFirstPause = 24;  // steps; doubled with each trial in vain
  static constexpr int kLongestPause = 768;

  void begin(Phase phase, int steps);
  void judge();

  Phase phase_ = Phase::Trial;
  int left_ = kTrial;  // steps of this phase
  int looks_ = 0;
  int pause_ = kFirstPause;
  Mean drafted_seconds_, drafted_tokens_, plain_seconds_;
};

}  // namespace frspec
