#include "engine/stop_text.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace frspec {

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (std::size_t i = 0; i < stops_.size(); ++i) {
    if (stops_[i].empty()) fail("stop: found an empty string at index ", i, ", expected at least one character");
  }
  if (stops_.empty()) return;
  constexpr std::size_t kUsualBytes = 1024;
  held_.reserve(kUsualBytes);
  shown_.reserve(kUsualBytes);
}

std::string_view StopText::push(std::string_view piece, bool may_stop) {
  if (stops_.empty()) return piece;
  if (stopped_) return {};
  // A match that ends in an earlier piece would have been found there: search where the new bytes take part.
  const std::size_t old = held_.size();
  held_ += piece;
  std::size_t first = std::string::npos, past = 0;
  for (const std::string& stop : stops_) {
    const std::size_t from = old + 1 > stop.size() ? old + 1 - stop.size() : 0;
    const std::size_t at = held_.find(stop, from);
    if (at < first) {
      first = at;
      past = at + stop.size();
    }
  }
  if (first != std::string::npos && may_stop) {
    stopped_ = true;
    shown_.assign(held_, 0, first);
    held_.clear();
    return shown_;
  }
  // Past a stop string that does not count nothing may overlap with it.
  const std::size_t begin = first == std::string::npos ? 0 : past;
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size() - begin); n > keep; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  shown_.assign(held_, 0, held_.size() - keep);
  held_.erase(0, shown_.size());
  return shown_;
}

std::string StopText::finish() { return std::exchange(held_, {}); }

}  // namespace frspec
