#include "engine/costs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace frspec {
namespace {

// Standard deviations, of logarithms:
constexpr double kNoise = 0.08;        // of a usual pass
constexpr double kFirstNoise = 0.3;    // of the first pass of a knot, beside that; of later ones less
constexpr double kRestored = 0.05;     // of what another process found, beside that
constexpr double kDrift = 0.015;       // of the machine's speed, from pass to pass
constexpr double kShapeDrift = 0.002;  // of a knot's seconds, likewise
constexpr double kSurprise = 2.5;      // of these: what is more was not to be expected
constexpr double kLasting = 0.1;       // of a surprise: by so much the machine may have become slower
constexpr double kBelieved = 2.0;      // logarithm of all that one pass is believed
constexpr double kSure = 0.12;         // of a knot beside the one of most passes: it needs no neighbours
constexpr int kYoung = 3;              // passes of so many rows before that: they may all have been disturbed
constexpr int kSettled = 5;            // surprises in a row that are none any more
constexpr int kFew = 8;                // passes: the knot is as likely to be wrong as the machine to have changed
constexpr int kMemory = 40;            // passes that are counted
constexpr int kKept = 12;              // of another process's
constexpr double kDear = 1.2;          // times what sure ones promise: more is to be seen again
constexpr double kLeastSeconds = 1e-7, kMostSeconds = 1e4;  // of a pass that another process may have seen

double square(double x) { return x * x; }

}  // namespace

double RowCosts::shape(int rows) const {
  if (known_ == 0) return guess_ * (1.0 + further_ * (rows - 1));
  return at(curve_, rows, -1);
}

// On the line between the nearest knots that are known, but for `left_out`; beyond them as steep as between the last
// two, and as between the first and the last: a moment's luck makes no rows free.
double RowCosts::at(const std::array<double, kKnots>& seconds, int rows, int left_out) const {
  int first = -1, low = -1, high = -1, before = -1;
  for (int i = 0; i < static_cast<int>(kKnots) && high < 0; ++i) {
    if (counts_[static_cast<std::size_t>(i)] == 0 || i == left_out) continue;
    if (kRows[static_cast<std::size_t>(i)] > rows) {
      high = i;
    } else {
      if (first < 0) first = i;
      before = std::exchange(low, i);
    }
  }
  if (low < 0) return high < 0 ? 0.0 : seconds[static_cast<std::size_t>(high)];
  double further = high < 0 ? slope(seconds, before, low) : slope(seconds, low, high);
  if (high < 0 && first < low) further = std::max(further, slope(seconds, first, low));
  return seconds[static_cast<std::size_t>(low)] + (rows - kRows[static_cast<std::size_t>(low)]) * further;
}

// Seconds of a row more, between two knots; behind the only one as guessed.
double RowCosts::slope(const std::array<double, kKnots>& seconds, int low, int high) const {
  const auto end = static_cast<std::size_t>(high);
  if (low < 0) return further_ * seconds[end] / (1.0 + further_ * (kRows[end] - 1.0));
  const auto begin = static_cast<std::size_t>(low);
  return std::max(0.0, (seconds[end] - seconds[begin]) / (kRows[end] - kRows[begin]));
}

// What is thought of all knots. One that is not sure is not believed to be dearer than the line between two that are,
// nor much dearer than the line through those below it, nor cheaper than those: or, where none is sure, it leans on its
// neighbours. Else one bad start would be believed for ever, since passes that look dear are not made again.
void RowCosts::draw() {
  slowness_ = std::exp(means_[kSlowness]);
  for (std::size_t i = 0; i < kKnots; ++i) seconds_[i] = counts_[i] > 0 ? std::exp(means_[1 + i]) : 0.0;
  const auto most = static_cast<std::size_t>(std::max_element(counts_.begin(), counts_.end()) - counts_.begin());
  std::array<bool, kKnots> sure = {};
  for (std::size_t i = 0; i < kKnots; ++i) {
    sure[i] =
        counts_[i] >= kYoung && surprises_[i] == 0 && (i == most || variance(1 + i, 1 + most, -1.0) < square(kSure));
  }
  int low = -1, before = -1;  // sure ones
  for (std::size_t i = 0; i < kKnots; ++i) {
    curve_[i] = seconds_[i];
    const auto here = static_cast<int>(i);
    if (sure[i]) {
      before = std::exchange(low, here);
    } else if (counts_[i] > 0 && low >= 0) {
      const auto below = static_cast<std::size_t>(low);
      const auto above = std::find(sure.begin() + here, sure.end(), true);
      const bool is_between = above != sure.end();
      const double further =
          is_between ? slope(seconds_, low, static_cast<int>(above - sure.begin())) : slope(seconds_, before, low);
      const double promised = seconds_[below] + further * (kRows[i] - kRows[below]);
      curve_[i] = std::clamp(seconds_[i], seconds_[below], (is_between ? 1.0 : kDear) * promised);
    } else if (counts_[i] > 0 && known_ > 1) {
      const double share = std::min(1.0, static_cast<double>(counts_[i]) / kFew);
      curve_[i] = share * seconds_[i] + (1.0 - share) * std::min(seconds_[i], at(seconds_, kRows[i], here));
    }
  }
  // More rows never take less time: what looks so was disturbed.
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = kKnots; i-- > 0;) {
    if (counts_[i] > 0) curve_[i] = least = std::min(least, curve_[i]);
  }
}

void RowCosts::add(int rows, double seconds) {
  // The nearest knot; the pass is taken for one of that many rows.
  const auto above = std::lower_bound(kRows.begin(), kRows.end(), rows);
  auto nearest = static_cast<std::size_t>(above - kRows.begin());
  if (nearest == kKnots || (nearest > 0 && kRows[nearest] - rows > rows - kRows[nearest - 1])) --nearest;
  if (known_ > 0) seconds *= shape(kRows[nearest]) / shape(rows);
  const double log_seconds = std::log(seconds);
  if (!std::isfinite(log_seconds)) return;
  covariance(kSlowness, kSlowness) += square(kDrift);
  for (std::size_t i = 0; i < kKnots; ++i) {
    if (counts_[i] > 0) covariance(1 + i, 1 + i) += square(kShapeDrift);
  }
  if (counts_[nearest] == 0) {
    meet(nearest, log_seconds);
    ++known_;
  } else {
    learn(nearest, log_seconds);
  }
  counts_[nearest] = std::min(counts_[nearest] + 1, kMemory);
  draw();
}

// The first pass of so many rows: all that is known of them.
void RowCosts::meet(std::size_t knot, double log_seconds) {
  const std::size_t own = 1 + knot;
  means_[own] = log_seconds - means_[kSlowness];
  for (std::size_t i = 0; i < kStates; ++i) covariance(i, own) = covariance(own, i) = -covariance(kSlowness, i);
  covariance(own, own) = covariance(kSlowness, kSlowness) + square(kNoise) + square(kFirstNoise);
}

// Of the sum of two of the states, or, with a `sign` of -1, of their difference.
double RowCosts::variance(std::size_t i, std::size_t j, double sign) const {
  return covariances_[i * kStates + i] + 2.0 * sign * covariances_[i * kStates + j] + covariances_[j * kStates + j];
}

void RowCosts::learn(std::size_t knot, double log_seconds) {
  const std::size_t own = 1 + knot;
  const int count = counts_[knot];
  int& surprises = surprises_[knot];
  const double error = std::clamp(log_seconds - means_[kSlowness] - means_[own], -kBelieved, kBelieved);
  double noise = square(kNoise) + square(kFirstNoise / (1 + count));
  if (square(error) <= square(kSurprise) * (variance(kSlowness, own, 1.0) + noise)) {
    surprises = 0;
  } else {
    surprises = error < 0.0 ? std::min(surprises, 0) - 1 : std::max(surprises, 0) + 1;
    // No pass is faster than it can be. Either these rows were thought too dear, since all their passes were
    // disturbed, or the machine is not as slow any more: the next passes of other sizes will tell. What happens again
    // and again is no accident, either.
    const bool is_fast = error < 0.0 && (whole_ || count < kYoung);
    if (is_fast || std::abs(surprises) >= kSettled) {
      const double young = static_cast<double>(kFew) / (kFew + count);
      covariance(own, own) += young * square(error);
      covariance(kSlowness, kSlowness) += (1.0 - young) * square(error);
    } else {
      noise = square(error / kSurprise);
      covariance(kSlowness, kSlowness) += square(kLasting * error);
    }
  }
  std::array<double, kStates> told = {};
  for (std::size_t i = 0; i < kStates; ++i) told[i] = covariance(i, kSlowness) + covariance(i, own);
  const double total = told[kSlowness] + told[own] + noise;
  for (std::size_t i = 0; i < kStates; ++i) {
    const double gain = told[i] / total;
    means_[i] += gain * error;
    for (std::size_t j = 0; j < kStates; ++j) covariance(i, j) -= gain * told[j];
  }
}

bool RowCosts::is_known_up_to(int rows) const {
  for (std::size_t i = 0; i < kKnots && kRows[i] <= rows; ++i) {
    if (counts_[i] > 0) return true;
  }
  return false;
}

int RowCosts::rows_within(double seconds, int least, int most) const {
  int found = least;
  for (int above = most; found < above;) {
    const int middle = found + (above - found + 1) / 2;
    if ((*this)(middle) <= seconds) {
      found = middle;
    } else {
      above = middle - 1;
    }
  }
  return found;
}

std::array<double, 2 * RowCosts::kKnots> RowCosts::numbers() const {
  std::array<double, 2 * kKnots> all = {};
  for (std::size_t i = 0; i < kKnots; ++i) {
    all[2 * i] = slowness_ * seconds_[i];
    all[2 * i + 1] = counts_[i];
  }
  return all;
}

void RowCosts::restore(std::span<const double> numbers) {
  *this = RowCosts(guess_, further_, whole_);
  covariance(kSlowness, kSlowness) = square(kFirstNoise);
  for (std::size_t i = 0; i < kKnots; ++i) {
    const double seconds = numbers[2 * i], count = numbers[2 * i + 1];
    if (!(seconds >= kLeastSeconds && seconds <= kMostSeconds && count >= 1.0)) continue;
    counts_[i] = static_cast<int>(std::min<double>(count, kKept));
    means_[1 + i] = std::log(seconds);
    covariance(1 + i, 1 + i) = square(kRestored) + square(kFirstNoise / counts_[i]);
    ++known_;
  }
  draw();
}

}  // namespace frspec
