#include "draft/arms.h"

#include <algorithm>
#include <random>

#include "vocab/draft_head.h"

namespace frspec {
namespace {

constexpr int kRepetitions = 3;

// Seconds of choosing the best tokens after each of `rows` states: the fastest of a few runs.
double time_head(Backend& backend, DraftHead& head, Tensor states, int rows, const BestTokens& best) {
  Instruments& instruments = backend.instruments();
  double fastest = 1e9;
  for (int i = 0; i < kRepetitions; ++i) {
    instruments.note_time(0);
    head.top_k(states.first_rows(rows), best, std::nullopt);
    instruments.note_time(1);
    backend.wait();
    fastest = std::min(fastest, instruments.seconds_between(0, 1));
  }
  return fastest;
}

void time_arm(Backend& backend, DraftHead& head, int branch, TimedArm& arm) {
  const auto rows = static_cast<std::size_t>(branch);
  const auto dim = static_cast<std::size_t>(head.matrices()[0]->cols());
  std::mt19937 random(1);  // states of noise: how long a head takes hardly depends on them
  std::normal_distribution<float> normal;
  std::vector<float> values(rows * dim);
  for (float& value : values) value = normal(random);
  const Buffer states = backend.allocate(values.size() * sizeof(float));
  backend.upload(states.as<void>(), values.data(), values.size() * sizeof(float));
  const Buffer ids = backend.allocate(rows * rows * sizeof(std::int32_t));
  const Buffer scores = backend.allocate(rows * rows * sizeof(float));
  const BestTokens best{.ids = ids.as<std::int32_t>(), .scores = scores.as<float>(), .k = branch};
  const Tensor matrix = states.matrix(branch, static_cast<std::int64_t>(dim));
  arm.root_seconds = time_head(backend, head, matrix, 1, best);
  if (branch == 1) return;
  const double level = time_head(backend, head, matrix, branch, best);
  arm.row_seconds = std::max(0.0, (level - arm.root_seconds) / (branch - 1));
}

}  // namespace

std::vector<TimedArm> time_arms(Backend& backend, const Drafter& drafter, const std::string& head,
                                const TreeShape& tree) {
  const std::vector<DraftArm> arms = drafter.arms();
  std::vector<TimedArm> timed;
  for (const DraftArm& arm : arms) {
    timed.push_back({!arm.head.empty() ? arm.head : head == "auto" ? "full" : head, arm.translation});
    if (arms.size() > 1) time_arm(backend, *arm.rows, tree.branch, timed.back());
  }
  return timed;
}

}  // namespace frspec
