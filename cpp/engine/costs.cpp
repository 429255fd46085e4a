// What passes cost.
#include "engine/costs.h"

#include <algorithm>
#include <cmath>

namespace frspec {
namespace {

constexpr double kUnusual = 1.5;     // times what was expected: more, or less, than that is not believed at once
constexpr double kSpeedPace = 0.12;  // share of a deviation that is taken for a change of the machine's speed
constexpr int kFirst = 3;            // passes of so many rows that are needed before they say anything of the speed
constexpr int kTrusted = 8;          // passes after which a knot needs no neighbours
constexpr int kMemory = 40;          // passes that a knot remembers

}  // namespace

// On the line between the nearest knots that are known, but for `left_out`; beyond them as steep as between the last
// two.
double RowCosts::between_knots(int rows, int left_out) const {
  int low = -1, high = -1, before = -1;
  for (int i = 0; i < static_cast<int>(kRows.size()); ++i) {
    if (knots_[static_cast<std::size_t>(i)].count == 0 || i == left_out) continue;
    if (kRows[static_cast<std::size_t>(i)] <= rows) {
      before = low;
      low = i;
    } else if (high < 0) {
      high = i;
    }
  }
  const auto seconds = [&](int i) { return knots_[static_cast<std::size_t>(i)].seconds; };
  const auto at = [&](int i) { return static_cast<double>(kRows[static_cast<std::size_t>(i)]); };
  if (low >= 0 && at(low) == rows) return seconds(low);
  if (low >= 0 && high >= 0) {
    return seconds(low) + (rows - at(low)) / (at(high) - at(low)) * (seconds(high) - seconds(low));
  }
  if (low < 0) return high >= 0 ? seconds(high) : 0.0;
  const double slope = before >= 0 ? std::max(0.0, (seconds(low) - seconds(before)) / (at(low) - at(before)))
                                   : further_ * seconds(low) / (1.0 + further_ * (at(low) - 1.0));
  return seconds(low) + slope * (rows - at(low));
}

double RowCosts::shape(int rows) const {
  if (known_ == 0) return guess_ * (1.0 + further_ * (rows - 1));
  double found = between_knots(rows, -1);
  // More rows never take less time: what looks so was disturbed.
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i] > rows && knots_[i].count > 0) found = std::min(found, knots_[i].seconds);
  }
  const auto at = std::lower_bound(kRows.begin(), kRows.end(), rows);
  if (known_ == 1 || at == kRows.end() || *at != rows) return found;
  // A knot of few passes leans on its neighbours: else one bad start would be believed for ever, since passes that look
  // dear are not made again.
  const auto knot = static_cast<int>(at - kRows.begin());
  const int count = knots_[static_cast<std::size_t>(knot)].count;
  if (count >= kTrusted || count == 0) return found;
  const double share = static_cast<double>(count) / kTrusted;
  return share * found + (1.0 - share) * std::min(found, between_knots(rows, knot));
}

void RowCosts::add(int rows, double seconds) {
  if (!(seconds > 0.0)) return;
  // The nearest knot; the pass is taken for one of that many rows.
  const auto above = std::lower_bound(kRows.begin(), kRows.end(), rows);
  auto at = static_cast<std::size_t>(above - kRows.begin());
  if (at == kRows.size() || (at > 0 && kRows[at] - rows > rows - kRows[at - 1])) --at;
  seconds *= shape(kRows[at]) > 0.0 && known_ > 0 ? shape(kRows[at]) / shape(rows) : 1.0;
  Knot& knot = knots_[at];
  const double now = seconds / speed_;
  if (knot.count == 0) {
    // What others promise may be wrong, but this pass may have been disturbed.
    const double promised = shape(kRows[at]);
    knot.seconds = known_ > 0 ? std::clamp(now, promised / kUnusual, promised * kUnusual) : now;
    knot.count = 1;
    ++known_;
    return;
  }
  const double ratio = std::clamp(now / knot.seconds, 1.0 / kUnusual, kUnusual);
  if (knot.count >= kFirst) speed_ *= std::pow(ratio, kSpeedPace);
  // The first passes may have had bad luck, never good luck.
  const bool is_usual = ratio > 1.0 / kUnusual && ratio < kUnusual;
  if (ratio < 1.0 && knot.count < kFirst) {
    knot.seconds *= ratio;
  } else if (is_usual || knot.count < kFirst) {
    knot.seconds *= std::pow(ratio, 1.0 / std::min(knot.count + 1, kMemory));
  }
  ++knot.count;
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
  for (std::size_t i = 0; i < knots_.size(); ++i) {
    knots_[i] = {numbers[2 * i], static_cast<int>(std::min(numbers[2 * i + 1], static_cast<double>(kMemory)))};
    known_ += knots_[i].count > 0 ? 1 : 0;
  }
}

}  // namespace frspec
