// What passes cost, by their rows: learned from passes, read for any number of rows.
#pragma once

#include <array>
#include <cstddef>
#include <span>

namespace frspec {

// Seconds of a pass by its rows. Two things change at two paces: how long a pass of so many rows is beside one of
// another size, slowly; and how fast the machine is now, quickly (memory is shared, and so may the processor be). So
// the logarithm of a pass's seconds is taken for the sum of both and some noise, and a Kalman filter says of each pass
// which of them it has told about: what a few passes have said of a size is doubted before what many have.
class RowCosts {
 public:
  // Nothing is known: a pass of one row takes that long, and each further row so much of it.
  // `whole`: what is added are whole passes of one kind, of which none is much faster than it can be; not differences
  // of times, nor passes of several kinds.
  explicit RowCosts(double one_row = 0.0, double further_row = 0.1, bool whole = true)
      : guess_(one_row), further_(further_row), whole_(whole) {}

  double operator()(int rows) const { return slowness_ * shape(rows); }
  // A pass that took so long. One that took much longer than was expected says little: somebody else wanted the
  // processor.
  void add(int rows, double seconds);
  bool is_known() const { return known_ > 0; }
  // Whether there was a pass of so many rows, or fewer.
  bool is_known_up_to(int rows) const;
  // The most rows, of `least` to `most`, whose pass is expected to take no longer than this; at least `least`.
  int rows_within(double seconds, int least, int most) const;

  // What is kept from process to process: seconds and passes of each knot.
  static constexpr std::array<int, 24> kRows = {1,  2,  3,  4,  5,  6,  7,  8,  10,  12,  14,  16,
                                                20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256, 512};
  static constexpr std::size_t kKnots = kRows.size();
  std::array<double, 2 * kKnots> numbers() const;
  void restore(std::span<const double> numbers);

 private:
  // What the filter tracks: the logarithms of the machine's slowness, and of the seconds of each knot.
  static constexpr std::size_t kSlowness = 0, kStates = 1 + kKnots;
  double shape(int rows) const;  // seconds at the usual speed
  double at(const std::array<double, kKnots>& seconds, int rows, int left_out) const;
  double slope(const std::array<double, kKnots>& seconds, int low, int high) const;
  void meet(std::size_t knot, double log_seconds);
  void learn(std::size_t knot, double log_seconds);
  double& covariance(std::size_t i, std::size_t j) { return covariances_[i * kStates + j]; }
  double variance(std::size_t i, std::size_t j, double sign) const;
  void draw();

  std::array<int, kKnots> counts_ = {};      // passes of each knot; 0: it is not known
  std::array<int, kKnots> surprises_ = {};   // of them in a row: above 0 slower than was expected, below it faster
  std::array<double, kKnots> seconds_ = {};  // at the usual speed
  std::array<double, kKnots> curve_ = {};    // what is thought of them
  std::array<double, kStates> means_ = {};
  std::array<double, kStates * kStates> covariances_ = {};
  double slowness_ = 1.0;
  int known_ = 0;  // knots that are
  double guess_, further_;
  bool whole_;
};

}  // namespace frspec
