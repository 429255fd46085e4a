// What passes cost.
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
constexpr double kRestored = 0.15;     // of what another process found
constexpr double kDrift = 0.015;        // of the machine's speed, from pass to pass
constexpr double kShapeDrift = 0.002;  // of a knot's seconds, likewise
constexpr double kSurprise = 2.5;      // of these: what is more was not to be expected
constexpr double kFollowed = 0.15;     // of a surprise: by so much the machine may have become slower
constexpr double kFastest = 1.1;       // less than was expected by more than that is no time of a pass
constexpr double kSure = 0.12;         // of what is known of a knot that needs no neighbours
constexpr int kYoung = 3;              // passes of so many rows before that: they may all have been disturbed
constexpr int kTrusted = 8;            // passes after which a knot needs no neighbours
constexpr int kMemory = 40;            // passes that are counted
constexpr int kKept = 12;              // of another process's
constexpr double kDear = 1.2;          // times what trusted ones promise: more is to be seen again

double square(double x) { return x * x; }

}  // namespace

double RowCosts::operator()(int rows) const { return std::exp(means_[kSlowness]) * shape(rows); }

double RowCosts::shape(int rows) const {
  if (known_ == 0) return guess_ * (1.0 + further_ * (rows - 1));
  return at(curve_, rows, -1);
}

// On the line between the nearest knots that are known, but for `left_out`; beyond them as steep as between the last
// two, and as between the first and the last: a moment's luck makes no rows free.
double RowCosts::at(const std::array<double, kRows.size()>& seconds, int rows, int left_out) const {
  int first = -1, low = -1, high = -1, before = -1;
  for (int i = 0; i < static_cast<int>(kRows.size()) && high < 0; ++i) {
    if (knots_[static_cast<std::size_t>(i)].count == 0 || i == left_out) continue;
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
double RowCosts::slope(const std::array<double, kRows.size()>& seconds, int low, int high) const {
  const auto end = static_cast<std::size_t>(high);
  if (low < 0) return further_ * seconds[end] / (1.0 + further_ * (kRows[end] - 1.0));
  const auto begin = static_cast<std::size_t>(low);
  return std::max(0.0, (seconds[end] - seconds[begin]) / (kRows[end] - kRows[begin]));
}

// What is thought of all knots. One of few passes is not believed to be dearer than the line between two that are
// trusted, nor much dearer than the line through those below it, or, where none is trusted, leans on its neighbours.
// Else one bad start would be believed for ever, since passes that look dear are not made again.
void RowCosts::draw() {
  std::array<double, kRows.size()> raw = {};
  for (std::size_t i = 0; i < kRows.size(); ++i) raw[i] = knots_[i].seconds;
  const auto is_trusted = [this](const Knot& knot) {
    return knot.count >= kYoung && variance(static_cast<std::size_t>(&knot - knots_.data())) < square(kSure);
  };
  int low = -1, before = -1;  // trusted
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    const Knot& knot = knots_[i];
    curve_[i] = knot.seconds;
    const auto here = static_cast<int>(i);
    if (is_trusted(knot)) {
      before = std::exchange(low, here);
    } else if (knot.count > 0 && low >= 0) {
      const auto trusted = static_cast<std::size_t>(low);
      const auto above = std::find_if(knots_.begin() + here, knots_.end(), is_trusted);
      const bool is_between = above != knots_.end();
      const double further =
          is_between ? slope(raw, low, static_cast<int>(above - knots_.begin())) : slope(raw, before, low);
      const double promised = raw[trusted] + further * (kRows[i] - kRows[trusted]);
      curve_[i] = std::min(knot.seconds, (is_between ? 1.0 : kDear) * promised);
    } else if (knot.count > 0 && known_ > 1) {
      const double share = static_cast<double>(knot.count) / kTrusted;
      curve_[i] = share * knot.seconds + (1.0 - share) * std::min(knot.seconds, at(raw, kRows[i], here));
    }
  }
  // More rows never take less time: what looks so was disturbed.
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = kRows.size(); i-- > 0;) {
    if (knots_[i].count > 0) curve_[i] = least = std::min(least, curve_[i]);
  }
}

void RowCosts::add(int rows, double seconds) {
  if (!(seconds > 0.0)) return;
  // The nearest knot; the pass is taken for one of that many rows.
  const auto above = std::lower_bound(kRows.begin(), kRows.end(), rows);
  auto nearest = static_cast<std::size_t>(above - kRows.begin());
  if (nearest == kRows.size() || (nearest > 0 && kRows[nearest] - rows > rows - kRows[nearest - 1])) --nearest;
  if (known_ > 0) seconds *= shape(kRows[nearest]) / shape(rows);
  covariance(kSlowness, kSlowness) += square(kDrift);
  for (std::size_t i = 0; i < knots_.size(); ++i) {
    if (knots_[i].count > 0) covariance(1 + i, 1 + i) += square(kShapeDrift);
  }
  if (knots_[nearest].count == 0) {
    meet(nearest, std::log(seconds));
    ++known_;
  } else {
    learn(nearest, std::log(seconds));
  }
  knots_[nearest].count = std::min(knots_[nearest].count + 1, kMemory);
  for (std::size_t i = 0; i < knots_.size(); ++i) knots_[i].seconds = std::exp(means_[1 + i]);
  draw();
}

// The first pass of so many rows: all that is known of them.
void RowCosts::meet(std::size_t knot, double log_seconds) {
  const std::size_t own = 1 + knot;
  means_[own] = log_seconds - means_[kSlowness];
  for (std::size_t i = 0; i < kStates; ++i) covariance(i, own) = covariance(own, i) = -covariance(kSlowness, i);
  covariance(own, own) = covariance(kSlowness, kSlowness) + square(kNoise) + square(kFirstNoise);
}

// Of what is expected of the next pass of so many rows, but for its own noise.
double RowCosts::variance(std::size_t knot) const {
  const std::size_t own = 1 + knot;
  return covariances_[kSlowness] + 2.0 * covariances_[own] + covariances_[own * kStates + own];
}

void RowCosts::learn(std::size_t knot, double log_seconds) {
  const std::size_t own = 1 + knot;
  const int count = knots_[knot].count;
  double error = log_seconds - means_[kSlowness] - means_[own];
  double noise = square(kNoise) + square(kFirstNoise / (1 + count));
  if (square(error) > square(kSurprise) * (variance(knot) + noise)) {
    if (error < 0.0 && (whole_ || count < kYoung)) {
      // No pass is faster than it can be. Either these rows were thought too dear, since all their passes were
      // disturbed, or the machine is not as slow any more: the next passes of other sizes will tell.
      error = std::max(error, count < kYoung ? error : -kFastest);
      const double young = static_cast<double>(kTrusted) / (kTrusted + count);
      covariance(own, own) += young * square(error);
      covariance(kSlowness, kSlowness) += (1.0 - young) * square(error);
    } else {
      noise = square(error / kSurprise);
      covariance(kSlowness, kSlowness) += square(kFollowed * error);
    }
  }
  std::array<double, kStates> told = {};
  for (std::size_t i = 0; i < kStates; ++i) told[i] = covariance(i, kSlowness) + covariance(i, own);
  const double variance = told[kSlowness] + told[own] + noise;
  for (std::size_t i = 0; i < kStates; ++i) {
    means_[i] += told[i] / variance * error;
    for (std::size_t j = 0; j < kStates; ++j) covariance(i, j) -= told[i] * told[j] / variance;
  }
}

bool RowCosts::is_known_up_to(int rows) const {
  for (std::size_t i = 0; i < kRows.size() && kRows[i] <= rows; ++i) {
    if (knots_[i].count > 0) return true;
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

std::array<double, 2 * RowCosts::kRows.size()> RowCosts::numbers() const {
  std::array<double, 2 * kRows.size()> all = {};
  for (std::size_t i = 0; i < knots_.size(); ++i) {
    if (knots_[i].count == 0) continue;
    all[2 * i] = std::exp(means_[kSlowness] + means_[1 + i]);
    all[2 * i + 1] = knots_[i].count;
  }
  return all;
}

void RowCosts::restore(std::span<const double> numbers) {
  *this = RowCosts(guess_, further_, whole_);
  covariance(kSlowness, kSlowness) = square(kFirstNoise);
  for (std::size_t i = 0; i < knots_.size(); ++i) {
    const double seconds = numbers[2 * i], count = numbers[2 * i + 1];
    if (!(seconds > 0.0) || !(count >= 1.0)) continue;
    knots_[i] = {static_cast<int>(std::min<double>(count, kKept)), seconds};
    means_[1 + i] = std::log(seconds);
    covariance(1 + i, 1 + i) = square(kRestored) + square(kFirstNoise) / knots_[i].count;
    ++known_;
  }
  draw();
}

}  // namespace frspec
