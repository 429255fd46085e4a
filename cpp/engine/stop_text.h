// Finds stop strings in a text that comes piece by piece, wherever the borders of tokens lie.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace frspec {

class StopText {
 public:
  // Throws InvalidInput for an empty string.
  explicit StopText(std::vector<std::string> stops = {});

  // Takes the next piece and returns what can be shown: everything up to the first stop string, or up to what might
  // become one; it is there until the next call, as the piece is. `may_stop` false: a stop string that ends in this
  // piece does not count.
  std::string_view push(std::string_view piece, bool may_stop = true);
  bool stopped() const { return stopped_; }
  // What was held back, because it might have become a stop string, at the end of the text.
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;  // the beginning of a stop string, perhaps
  std::string shown_;
  bool stopped_ = false;
};

}  // namespace frspec
