// The times that are noted of a step (Instruments::note_time), and of all that are under way: one at each post. The
// points behind them are the draft heads'.
#pragma once

#include <chrono>

#include "backend/backend.h"

namespace frspec {

enum StepTime : int { kStart, kRead, kDrafted, kVerified };
inline constexpr int kStepTimes = kVerified + 1, kEngineTimes = kPosts * kStepTimes;
static_assert(kEngineTimes < kTimePoints);

constexpr int time_point(int slot, StepTime time) { return slot * kStepTimes + time; }

// The host's clock.
using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace frspec
