// Learning what to draft with.
#include "engine/tuner.h"

#include <algorithm>
#include <cmath>

namespace frspec {
namespace {

constexpr double kRatioPrior = 2.0;                 // accepted tokens that a head's ratio is taken for 1 by
constexpr double kMostRisk = 4.0;                   // plain steps that drafting may lose at once
constexpr double kCredit = 40.0;                    // plain steps that it may have gained before, and lose again
constexpr int kLeastPause = 100, kMostPause = 800;  // plain steps
constexpr double kSurveyAllowance = 24.0;           // plain steps that surveys may cost at once, where drafting pays
constexpr double kUnusual = 1.5;                    // times the median: another program wanted the processor
constexpr double kUntriedBonus = 0.85;              // seconds of trees of an untried size are guessed a little too low

// Accepted drafts of a tree that nothing is known of.
double guess_of_drafts(const TreeShape& shape) {
  const double agrees = std::max(0.3, 0.8 - 0.5 / std::sqrt(static_cast<double>(shape.size)));
  double drafts = 0.0, reached = 1.0;
  for (int level = 0; level < std::min(shape.levels(), shape.size - 1); ++level) drafts += reached *= agrees;
  return drafts;
}

}  // namespace

void Tuner::Mean::add(double x) {
  count = std::min(count + 1.0, kMemory);
  value += (x - value) / count;
}

void Tuner::Duration::add(double seconds) {
  latest_[static_cast<std::size_t>(count_++ % kKept)] = seconds;
  std::array<double, kKept> sorted = latest_;
  const auto end = sorted.begin() + std::min(count_, kKept);
  std::sort(sorted.begin(), end);
  median_ = sorted[static_cast<std::size_t>((end - sorted.begin()) / 2)];
}

Tuner::Tuner(std::vector<Head> heads, std::vector<TreeShape> shapes)
    : heads_(std::move(heads)),
      shapes_(std::move(shapes)),
      arms_(heads_.size() * shapes_.size()),
      drafts_(shapes_.size()),
      target_seconds_(shapes_.size()),
      expected_target_(shapes_.size(), 1.0),
      found_(heads_.size(), 0.0),
      asked_(heads_.size(), 0.0) {
  keep_costs();
}

void Tuner::know_target(double plain_seconds, double largest_seconds) {
  plain_seconds_.add(plain_seconds);
  keep_costs();
  if (!target_seconds_.empty()) target_seconds_.back().add(largest_seconds);
  expect_target();
}

void Tuner::keep_costs() {
  for (std::size_t s = 0; s < shapes_.size(); ++s) drafts_[s] = {guess_of_drafts(shapes_[s]), kPrior};
  found_.assign(heads_.size(), 0.0);
  asked_.assign(heads_.size(), 0.0);
  trials_ = surveys_ = {};
  risk_ = 0.0;
  pause_left_ = 0;
  pause_length_ = kLeastPause;
  since_plain_ = since_survey_ = surveys_made_ = trials_made_ = 0;
  plain_interval_ = kLeastPlainInterval;
  survey_interval_ = kLeastSurveyInterval;
  surveys_.allowance = kSurveyAllowance * plain_seconds_.value();
  if (!heads_.empty()) current_ = {false, static_cast<int>(heads_.size()) - 1, 0};
}

void Tuner::begin_text() {
  pause_length_ = std::max(kLeastPause, pause_length_ / 2);
  pause_left_ = std::min(pause_left_ / 2, pause_length_);
}

bool Tuner::is_hopeless(int shape) const {
  const int most = shapes_[static_cast<std::size_t>(shape)].levels() + 1;
  return target_seconds(shape) > most * plain_seconds_.value();
}

double Tuner::ratio(int head) const {
  const auto h = static_cast<std::size_t>(head);
  return (found_[h] + kRatioPrior) / (asked_[h] + kRatioPrior);
}

double Tuner::drafts_of_shape(int shape) const { return drafts_[static_cast<std::size_t>(shape)].value; }

double Tuner::head_seconds(int head, int shape) const {
  const Head& h = heads_[static_cast<std::size_t>(head)];
  return h.root_seconds + (shapes_[static_cast<std::size_t>(shape)].levels() - 1) * h.level_seconds;
}

// Of a step without its drafting: as measured, or on the line through the neighbours that were. A few runs may have had
// bad luck: they are not believed where the neighbours promise more. Allocates nothing: it is done in every step.
void Tuner::expect_target() {
  const auto is_known = [&](std::size_t s) {
    return target_seconds_[s].is_sure() || (s + 1 == shapes_.size() && target_seconds_[s].count() > 0);
  };
  for (std::size_t s = 0; s < shapes_.size(); ++s) {
    const Duration& own = target_seconds_[s];
    if (own.is_sure()) {
      expected_target_[s] = own.value();
      continue;
    }
    // The nearest that are known, no larger and no smaller. A single token is the smallest tree of all.
    double low_size = 0.0, low = 0.0, high_size = 0.0, high = 0.0;
    if (plain_seconds_.count() > 0) low_size = 1.0, low = plain_seconds_.value();
    for (std::size_t other = 0; other < shapes_.size(); ++other) {
      if (!is_known(other)) continue;
      const auto size = static_cast<double>(shapes_[other].size);
      if (shapes_[other].size <= shapes_[s].size && size >= low_size)
        low_size = size, low = target_seconds_[other].value();
      if (shapes_[other].size >= shapes_[s].size && (high_size == 0.0 || size < high_size)) {
        high_size = size, high = target_seconds_[other].value();
      }
    }
    if (low_size == 0.0 && high_size == 0.0) {  // nothing was run yet: all sizes look the same
      expected_target_[s] = own.count() > 0 ? own.value() : 1.0;
      continue;
    }
    if (low_size == 0.0) low_size = high_size, low = high;
    if (high_size == 0.0) high_size = low_size, high = low;
    const double span = high_size - low_size;
    const double share = span > 0.0 ? (static_cast<double>(shapes_[s].size) - low_size) / span : 0.0;
    const double between = (low + std::clamp(share, 0.0, 1.0) * (high - low)) * kUntriedBonus;
    expected_target_[s] = own.count() > 0 ? std::min(own.value(), between) : between;
  }
}

double Tuner::layers_seconds(int shape) const {
  return (shapes_[static_cast<std::size_t>(shape)].levels() + 1) * layer_seconds_.value();
}

double Tuner::seconds(int head, int shape) const {
  const Duration& own = arms_[index(head, shape)];
  if (own.is_sure()) return own.value();
  const double parts = target_seconds(shape) + head_seconds(head, shape) + layers_seconds(shape);
  return own.count() > 0 ? std::min(own.value(), parts) : parts;
}

// What is little known may be better than it looks.
double Tuner::hoped_rate(int head, int shape) const {
  const double hope = kHope / std::sqrt(drafts_[static_cast<std::size_t>(shape)].count);
  return (tokens(head, shape) + hope * ratio(head)) / seconds(head, shape);
}

Tuner::Plan Tuner::best_arm() const {
  Plan best{true, current_.head, current_.shape};
  double most = hoped_rate(best.head, best.shape) * kHysteresis;
  for (int h = 0; h < static_cast<int>(heads_.size()); ++h) {
    for (int s = 0; s < static_cast<int>(shapes_.size()); ++s) {
      const double found = hoped_rate(h, s);
      if (found > most) {
        most = found;
        best = {true, h, s};
      }
    }
  }
  return best;
}

// Pauses where drafting has lost too much against plain decoding since the last pause, the longer the more often.
void Tuner::watch(double loss) {
  const double unit = plain_seconds_.value();
  trials_.add(loss);
  risk_ = std::max(risk_ + loss, -kCredit * unit);
  if (risk_ < -kCredit / 2 * unit) pause_length_ = kLeastPause;
  if (risk_ <= kMostRisk * unit) return;
  risk_ = 0.0;
  pause_left_ = pause_length_;
  pause_length_ = std::min(2 * pause_length_, kMostPause);
  forget();
}

// What was learned of drafts counts for less from now on.
void Tuner::forget() {
  for (Mean& drafts : drafts_) drafts.count = std::min(drafts.count, kOldMemory);
}

Tuner::Plan Tuner::next(bool may_pause) {
  last_ = choose(may_pause);
  last_.planned = true;
  return last_;
}

int Tuner::steady_steps() const {
  constexpr int kMany = 1 << 20;
  if (!last_.drafts || layer_seconds_.count() == 0 || surveys_beside_ > 0.0 || (free_ && pause_left_ > 0)) return 0;
  const Plan best = best_arm();
  if (best.head != last_.head || best.shape != last_.shape) return 0;
  if (free_ && rate(best.head, best.shape) * plain_seconds_.value() < 1.0) return 0;
  const int until_plain = free_ ? plain_interval_ - since_plain_ : kMany;
  if (heads_.size() == 1 && shapes_.size() == 1) return std::max(0, until_plain);
  // A survey that is due, but costs too much, is asked for again at leisure.
  const int until_survey = since_survey_ > survey_interval_ ? kLeastPlainInterval : survey_interval_ - since_survey_;
  // An arm that was run a few times only may turn out to be a bad one.
  const int known = arms_[index(best.head, best.shape)].count() / 4;
  return std::clamp(std::min(until_survey, known), 0, std::max(0, until_plain));
}

Tuner::Plan Tuner::again() {
  if (free_) ++since_plain_;
  ++since_survey_;
  return last_;
}

Tuner::Plan Tuner::choose(bool may_pause) {
  surveys_beside_ = 0.0;
  free_ = may_pause;
  if (heads_.empty() || shapes_.empty()) return {};
  const auto largest = static_cast<int>(shapes_.size()) - 1;
  const double plain_rate = plain_seconds_.count() > 0 ? 1.0 / plain_seconds_.value() : 0.0;
  if (may_pause && plain_seconds_.count() < kFirstPlain) return {};
  // Before anything was drafted: the smallest tree, which costs least if it is in vain.
  if (layer_seconds_.count() == 0) {
    if (may_pause && is_hopeless(0)) return {};
    return current_ = {true, 0, 0};
  }
  // Whatever is expected, drafting may not have lost more than a small share of the time.
  if (may_pause && pause_left_ > 0) return {};
  const Plan best = best_arm();
  const double most = rate(best.head, best.shape);
  if (may_pause && most < plain_rate) {
    // Plain decoding gives more. What is known of drafts grows old: a trial now and then, every other one with the head
    // that misses least, for a small one may be what is to blame.
    const Plan trial{true, trials_made_ % 2 == 0 ? best.head : 0, best.shape};
    if (!trials_.may_lose(seconds(trial.head, trial.shape) - tokens(trial.head, trial.shape) / plain_rate)) return {};
    ++trials_made_;
    forget();
    return trial;
  }
  if (may_pause && ++since_plain_ > plain_interval_) {
    plain_interval_ = std::min(2 * plain_interval_, kMostPlainInterval);
    return {};
  }
  // A survey, by turns: what the head that misses least finds, and what the largest tree holds.
  if (++since_survey_ > survey_interval_) {
    const Plan survey = surveys_made_ % 2 == 0 ? Plan{true, 0, best.shape} : Plan{true, best.head, largest};
    const bool is_new = survey.head != best.head || survey.shape != best.shape;
    const double loss = seconds(survey.head, survey.shape) - tokens(survey.head, survey.shape) / most;
    if (!is_new || surveys_.may_lose(loss)) {
      since_survey_ = 0;
      survey_interval_ = std::min(2 * survey_interval_, kMostSurveyInterval);
      ++surveys_made_;
      if (is_new) {
        surveys_beside_ = most;
        return survey;
      }
    }
  }
  return current_ = best;
}

void Tuner::learn_acceptance(const Step& step) {
  const auto run = static_cast<std::size_t>(step.plan.shape);
  // Another head than the first one would have drafted so much more, had it missed nothing that the first one finds.
  const double scale = 1.0 / ratio(step.plan.head);
  const auto held = [&](std::size_t shape) {
    int drafts = 0;
    for (const Accepted& node : step.accepted) {
      const bool fits = drafts < shapes_[shape].levels() && node.rank < shapes_[shape].size - 1;
      if (!fits) break;
      ++drafts;
    }
    return drafts;
  };
  for (std::size_t s = 0; s < shapes_.size(); ++s) {
    const bool smaller =
        step.is_ranked && shapes_[s].size <= shapes_[run].size && shapes_[s].levels() <= shapes_[run].levels();
    if (s == run) {
      drafts_[s].add(static_cast<double>(step.accepted.size()) * scale);
    } else if (smaller) {
      drafts_[s].add(held(s) * scale);
    }
  }
  // Trees that are larger than all that tells of them keep their distance to what was run.
  const double learned = drafts_[run].value / guess_of_drafts(shapes_[run]);
  for (std::size_t s = 0; s < shapes_.size(); ++s) {
    if (drafts_[s].count <= kPrior && s != run) drafts_[s].value = guess_of_drafts(shapes_[s]) * learned;
  }
  if (step.plan.head != 0) return;
  for (std::size_t h = 0; h < heads_.size(); ++h) {
    for (const Accepted& node : step.accepted) {
      found_[h] *= 1.0 - 1.0 / 1024.0;
      asked_[h] *= 1.0 - 1.0 / 1024.0;
      asked_[h] += 1.0;
      // Behind a token that the head misses nothing is drafted.
      if ((node.heads >> h & 1u) == 0) {
        const auto at = static_cast<std::size_t>(&node - step.accepted.data());
        asked_[h] += static_cast<double>(step.accepted.size() - at - 1);
        break;
      }
      found_[h] += 1.0;
    }
  }
}

void Tuner::add(const Step& step) {
  if (!step.plan.planned) {
    free_ = false;
    surveys_beside_ = 0.0;
  }
  const double all = step.seconds + step.catch_up_seconds;
  surveys_.seconds += all;
  if (free_) trials_.seconds += all;
  if (!step.plan.drafts) {
    since_plain_ = 0;
    plain_seconds_.add(step.seconds);
    expect_target();
    pause_left_ = std::max(0, pause_left_ - 1);
    return;
  }
  const auto shape = static_cast<std::size_t>(step.plan.shape);
  // What was lost, or gained: luck evens out. Not the step's fault is what it takes beyond the usual.
  const double usual = arms_[index(step.plan.head, step.plan.shape)].value();
  const double taken = usual > 0.0 ? std::min(step.seconds, kUnusual * usual) : step.seconds;
  if (surveys_beside_ > 0.0) {
    surveys_.add(taken - step.tokens / surveys_beside_);
  } else if (free_) {
    watch(taken - step.tokens * plain_seconds_.value());
  }
  const double layers = step.draft_seconds - head_seconds(step.plan.head, step.plan.shape);
  layer_seconds_.add(std::max(0.0, layers / (shapes_[shape].levels() + 1)));
  target_seconds_[shape].add(step.seconds - step.draft_seconds);
  arms_[index(step.plan.head, step.plan.shape)].add(step.seconds);
  expect_target();
  learn_acceptance(step);
}

Tuner::Choice Tuner::choice() const {
  Choice found;
  if (plain_seconds_.value() > 0.0) found.plain_tokens_per_second = 1.0 / plain_seconds_.value();
  if (heads_.empty() || layer_seconds_.count() == 0) return found;
  found.plan = best_arm();
  found.tokens_per_second = rate(found.plan.head, found.plan.shape);
  found.plan.drafts = found.tokens_per_second >= found.plain_tokens_per_second;
  found.rho = ratio(found.plan.head) / ratio(0);
  const double first = head_seconds(0, found.plan.shape), own = head_seconds(found.plan.head, found.plan.shape);
  if (first > 0.0) {
    found.nu = own / first;
    found.kappa = first / (target_seconds(found.plan.shape) + layers_seconds(found.plan.shape));
  }
  return found;
}

std::vector<TreeShape> shapes_up_to(const TreeShape& largest) {
  std::vector<TreeShape> shapes;
  const auto add = [&](int depth, int branch, int size) {
    const TreeShape shape{depth, std::max(1, std::min(branch, largest.branch)), std::min(size, largest.size)};
    const bool there = std::any_of(shapes.begin(), shapes.end(), [&](const TreeShape& other) {
      return other.depth == shape.depth && other.branch == shape.branch && other.size == shape.size;
    });
    if (!there) shapes.push_back(shape);
  };
  for (int size = 2; size < largest.size; size *= 2) {
    // Small trees are shallow: a level that keeps less than a node is not worth its time.
    for (const int depth : {0, largest.depth / 3, 2 * largest.depth / 3, largest.depth}) {
      if (depth + 1 < size && size <= 16 * (depth + 1)) add(depth, std::max(2, size / 4), size);
    }
  }
  for (const int depth : {largest.depth / 3, 2 * largest.depth / 3}) add(depth, largest.branch, largest.size);
  add(largest.depth, largest.branch, largest.size);
  return shapes;
}

}  // namespace frspec
