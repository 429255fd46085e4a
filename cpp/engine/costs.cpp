// What passes cost.
#include "engine/costs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace frspec {
namespace {

constexpr double kUnusual = 1.5;      // times what was expected: more than that is not believed at once
constexpr double kFast = 0.75;        // of what was expected: hardly any pass is so fast by luck
constexpr double kFastest = 1.0 / 3;  // of what was expected: all that one pass is believed
constexpr double kAlike = 1.2;        // times what was expected, or less: it was as was thought
constexpr double kMostSpeed = 4.0;    // beyond that, or its inverse, the usual speed is another one
constexpr double kSpeedPace = 0.12;   // share of a deviation that is taken for a change of the machine's speed
constexpr int kFirst = 3;             // passes of so many rows that are needed before they say anything of the speed
constexpr int kTrusted = 8;           // passes after which a knot needs no neighbours
constexpr int kMemory = 40;           // passes that a knot remembers
constexpr int kConfirmed = 12;        // that one counts for which is as the first ones were
constexpr int kFade = 64;             // passes of other sizes for which it forgets one
constexpr double kDear = 1.2;         // times what trusted ones promise: more is to be seen again

}  // namespace

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
  const auto is_trusted = [](const Knot& knot) { return knot.count >= kTrusted; };
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
  const double promised = shape(kRows[nearest]);
  seconds *= promised > 0.0 && known_ > 0 ? promised / shape(rows) : 1.0;
  if (++passes_ % kFade == 0) {
    for (std::size_t i = 0; i < knots_.size(); ++i) {
      if (i != nearest && knots_[i].count > kFirst) --knots_[i].count;
    }
  }
  learn(nearest, seconds, promised);
  if (speed_ > kMostSpeed || speed_ < 1.0 / kMostSpeed) {
    for (Knot& knot : knots_) knot.seconds *= speed_;
    before_ *= speed_;
    speed_ = 1.0;
  }
  draw();
}

void RowCosts::learn(std::size_t nearest, double seconds, double promised) {
  Knot& knot = knots_[nearest];
  const double now = seconds / speed_;
  if (knot.count == 0) {
    // What others promise may be wrong, but this pass may have been disturbed.
    knot.seconds = known_ > 0 ? std::clamp(now, promised / kUnusual, promised * kUnusual) : now;
    knot.count = 1;
    ++known_;
    return;
  }
  // A correction that its next pass does not bear out is taken back.
  if (std::cmp_equal(corrected_, nearest)) {
    if (now > kUnusual * knot.seconds) knot = {before_, kConfirmed};
    corrected_ = -1;
  }
  const double found = now / knot.seconds;
  if (doubts_ && knot.count >= kFirst && doubt(nearest, std::max(found, kFastest))) return;
  const double ratio = std::clamp(found, 1.0 / kUnusual, kUnusual);
  if (knot.count >= kTrusted) speed_ *= std::pow(ratio, kSpeedPace);
  // The first passes may have had bad luck, never good luck.
  if (ratio < 1.0 && knot.count < kFirst) {
    knot.seconds *= ratio;
  } else {
    const bool is_usual = ratio < kUnusual || knot.count < kFirst;
    knot.seconds *= std::pow(ratio, 1.0 / (is_usual ? knot.count + 1 : kMemory));
  }
  // Found twice, not by chance.
  const bool is_confirmed = knot.count >= kFirst && knot.count < kTrusted && ratio > 1.0 / kAlike && ratio < kAlike;
  knot.count = is_confirmed ? kConfirmed : std::min(knot.count + 1, kMemory);
}

// No pass is faster than it can be. One that seems so was thought too dear, in a bad moment, or the machine is not as
// slow any more: the next pass of another size tells which. True: nothing is to be learned of this pass yet.
bool RowCosts::doubt(std::size_t knot, double ratio) {
  const bool is_fast = ratio < kFast;
  if (doubted_ >= 0 && static_cast<std::size_t>(doubted_) != knot) {
    if (is_fast) {
      speed_ *= std::sqrt(doubted_ratio_ * ratio);
    } else if (ratio < kAlike) {
      Knot& dear = knots_[static_cast<std::size_t>(doubted_)];
      corrected_ = doubted_;
      before_ = dear.seconds;
      dear = {dear.seconds * doubted_ratio_, kFirst};
    }
    doubted_ = -1;
    return is_fast;
  }
  if (!is_fast) {
    doubted_ = -1;
    return false;
  }
  // Again and again the same size: what is known of the others is known of a slower machine.
  if (doubted_ >= 0 && ++doubted_times_ >= kFirst) {
    speed_ *= ratio;
    doubted_ = -1;
    return true;
  }
  if (doubted_ < 0) {
    doubted_ = static_cast<int>(knot);
    doubted_times_ = 1;
  }
  doubted_ratio_ = ratio;
  return true;
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
    all[2 * i] = speed_ * knots_[i].seconds;
    all[2 * i + 1] = knots_[i].count;
  }
  return all;
}

void RowCosts::restore(std::span<const double> numbers) {
  known_ = 0;
  speed_ = 1.0;
  doubted_ = corrected_ = -1;
  for (std::size_t i = 0; i < knots_.size(); ++i) {
    const bool is_known = numbers[2 * i] > 0.0 && numbers[2 * i + 1] >= 1.0;
    const int count = static_cast<int>(std::min<double>(numbers[2 * i + 1], kConfirmed));
    knots_[i] = is_known ? Knot{numbers[2 * i], count} : Knot{};
    known_ += knots_[i].count > 0 ? 1 : 0;
  }
  draw();
}

}  // namespace frspec
