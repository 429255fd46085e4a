// What is learned of each step, forgotten from text to text and kept from process to process.
#include <algorithm>
#include <cmath>

#include "engine/tuner.h"

namespace frspec {
namespace {

// Steps that the tokens per second are taken from: as fast as texts change their kind.
constexpr double kRateMemory = 48.0;
// Drafted steps that the worth of drafting is taken from: while it runs, and where probes are all there is.
constexpr double kWorthMemory = 32.0, kProbeMemory = 4.0;
// A mood this bad means that the text has changed its kind: what was before says little.
constexpr double kBadMood = 0.6, kChangedMemory = 8.0;
// What of them a new text, which may be of another kind, still believes.
constexpr double kSeenBefore = 12.0;
constexpr int kFirstPlainInterval = 6;  // where all that is known is another process's
constexpr double kSideMemory = 64.0;    // steps: levels, widths, nodes
constexpr double kHeldMemory = 512.0;   // tokens: what heads hold

}  // namespace

void Tuner::Mean::add(double x, double memory) {
  count = std::min(count + 1.0, memory);
  value += (x - value) / count;
}

void Tuner::begin_text(bool noisy) {
  if (noisy != noisy_) {
    for (Family& family : families_) family.worth.count = std::min(family.worth.count, kProbeMemory);
  }
  noisy_ = noisy;
  rate_tokens_.count = std::min(rate_tokens_.count, kRateMemory / 4);
  rate_seconds_.count = rate_tokens_.count;
  for (Family& family : families_) {
    family.worth.count = std::min(family.worth.count, kWorthMemory / 2);
    family.seen = std::min(family.seen, kSeenBefore);
  }
  // Among others there is always one who begins.
  if (pass_.texts == 1) until_probe_ = std::min(until_probe_, 1);
}

void Tuner::join(const Pass& pass) {
  pass_ = pass;
  rate_tokens_ = rate_seconds_ = {};
  prober_ = 0;
  for (Family& family : families_) family.seen = 0.0;
  if (!arms_.empty()) until_probe_ = hoped_worth(family_of(current_)) > 0.0 ? 0 : probe_interval();
}

void Tuner::learn_costs(const Step& step) {
  target_.add(step.rows + pass_.rows, step.target_seconds);
  if (arms_.empty()) return;
  const double spent = step.read_seconds + step.grown_seconds;
  if (!step.drafted) {
    if (step.plan.reads > 0) layers_.add(step.read_rows, spent);
    return;
  }
  if (!grows_) {
    if (step.read_rows > kUsualRows) return layers_.add(step.read_rows, spent - overhead_.value);
    return overhead_.add(spent, kWorthMemory);
  }
  const std::vector<Level>& levels = step.growing.levels;
  if (levels.empty()) return;
  // The drafter's layers: for what it was told, and for each level.
  const Arm& arm = arms_[static_cast<std::size_t>(step.plan.arm)];
  double rest = step.grown_seconds;
  for (const Level& level : levels) rest -= level.seconds;
  layers_.add(std::max(1, step.read_rows), step.read_seconds + levels[0].seconds - arm.root_seconds);
  for (const Level& level : std::span(levels).subspan(1)) {
    layers_.add(level.rows, level.seconds - head_seconds(arm, level.rows));
  }
  overhead_.add(std::max(0.0, rest), kSideMemory);
}

void Tuner::add(const Step& step) {
  pass_ = step.pass;
  learn_costs(step);
  if (!rehearsal_.empty()) return;
  for (const Trial& node : step.nodes) acceptance_.learn(node.cell, node.accepted);
  for (const Trial& parent : step.parents) acceptance_.learn_continuation(parent.cell, parent.accepted);
  if (!step.nodes.empty()) acceptance_.end_step();
  const double time = value_of_time();
  const double seconds = pass_seconds(step.rows);
  double drafting = 0.0;
  // Where what the text repeats was enough, the drafter was not asked.
  const bool drafted = step.drafted && !arms_.empty() && (!grows_ || !step.growing.levels.empty());
  if (drafted) {
    Family& known = families_[static_cast<std::size_t>(family_of(step.plan.arm))];
    double levels = fixed_levels_, width = 1.0;
    if (grows_) {
      const std::span<const Level> grown = step.growing.levels;
      levels = static_cast<double>(grown.size());
      double nodes = 0.0;
      for (const Level& level : grown.subspan(grown.empty() ? 0 : 1)) {
        drafting += level_seconds(step.plan.arm, level.rows);
        nodes += level.rows;
      }
      if (levels > 1.0) width = nodes / (levels - 1.0);
      // What it was told of after a pause is no cost of this step's drafts.
      drafting +=
          root_seconds(step.plan.arm, std::min(step.read_rows, 1 + static_cast<int>(std::lround(known.gain.value))));
    } else {
      drafting = overhead_.value;
    }
    const double gain = step.has_notes ? step.expected : step.accepted;
    const double own = gain - step.growing.worth_of_repeated;
    const double worth = own - time * (seconds - plain() + drafting);
    const bool paused = hoped_worth(family_of(step.plan.arm)) <= 0.0;
    known.seen += 1.0;
    const bool has_changed = acceptance_.mood() < kBadMood;
    known.worth.add(worth, paused ? kProbeMemory : has_changed ? kChangedMemory : kWorthMemory);
    known.gain.add(gain, kWorthMemory);
    known.own.add(own, kWorthMemory);
    if (step.growing.likeliest > 0.0) known.likeliest.add(step.growing.likeliest, kWorthMemory);
    known.levels.add(levels, kSideMemory);
    known.width.add(width, kSideMemory);
    known.nodes.add(step.rows, kSideMemory);
    // One probe that pays is followed by another: where a drafter is sure, it often stays so.
    // So is one that gave more than anything had promised: the text may have changed its kind.
    const bool is_surprise = step.has_notes && step.accepted > 2.0 * step.expected;
    until_probe_ = worth > 0.0 || is_surprise ? 0 : probe_interval();
  }
  if (step.rows == 1 && !drafted) since_plain_ = 0;
  for (const std::uint32_t arms : step.held) {
    for (std::size_t arm = 0; arm < held_.size(); ++arm)
      held_[arm].add((arms >> arm & 1u) != 0 ? 1.0 : 0.0, kHeldMemory);
  }
  const double tokens = 1.0 + (step.has_notes || step.rows == 1 ? step.expected : step.accepted);
  rate_tokens_.add(tokens, kRateMemory);
  // Of a pass that several share, this text has its part; what it has drafted is its own.
  rate_seconds_.add(seconds / pass_.texts + drafting, kRateMemory);
}

// --- From process to process ---

std::vector<double> Tuner::numbers() const {
  std::vector<double> all;
  const auto put = [&](const auto& some) { all.insert(all.end(), some.begin(), some.end()); };
  const auto put_mean = [&](const Mean& mean) { all.insert(all.end(), {mean.value, mean.count}); };
  put(acceptance_.numbers());
  put(target_.numbers());
  put(layers_.numbers());
  put_mean(overhead_);
  for (const Family& f : families_) {
    all.push_back(f.seen);
    for (const Mean* mean : {&f.worth, &f.gain, &f.own, &f.likeliest, &f.levels, &f.width, &f.nodes}) put_mean(*mean);
  }
  for (const Mean& held : held_) put_mean(held);
  all.push_back(current_);
  return all;
}

bool Tuner::restore(std::span<const double> numbers) {
  if (numbers.size() != this->numbers().size()) return false;
  for (const double x : numbers) {
    if (!std::isfinite(x) || x < -1e6 || x > 1e9) return false;
  }
  std::size_t at = 0;
  const auto take = [&](std::size_t count) {
    at += count;
    return numbers.subspan(at - count, count);
  };
  const auto take_mean = [&](Mean& mean) {
    const auto pair = take(2);
    mean = {pair[0], std::max(0.0, pair[1])};
  };
  const auto cells = take(acceptance_.numbers().size());
  acceptance_.restore(std::vector<float>(cells.begin(), cells.end()));
  target_.restore(take(target_.numbers().size()));
  layers_.restore(take(layers_.numbers().size()));
  take_mean(overhead_);
  for (Family& f : families_) {
    f.seen = take(1)[0];
    for (Mean* mean : {&f.worth, &f.gain, &f.own, &f.likeliest, &f.levels, &f.width, &f.nodes}) take_mean(*mean);
  }
  for (Mean& held : held_) take_mean(held);
  current_ = std::clamp(static_cast<int>(numbers[at]), 0, std::max(0, static_cast<int>(arms_.size()) - 1));
  plain_interval_ = kFirstPlainInterval;
  return true;
}

}  // namespace frspec
