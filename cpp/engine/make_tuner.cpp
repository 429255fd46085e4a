// Making tuners.
#include "engine/make_tuner.h"

#include <algorithm>
#include <random>

#include "engine/make_drafter.h"

namespace frspec {
namespace {

constexpr int kRepetitions = 3;

// Seconds of choosing the best `k` tokens after each of `rows` states: the fastest of a few runs.
double time_head(Backend& backend, DraftHead& head, Tensor states, int rows, const BestTokens& best) {
  double fastest = 1e9;
  for (int i = 0; i < kRepetitions; ++i) {
    backend.note_time(0);
    head.top_k(states.first_rows(rows), best, std::nullopt);
    backend.note_time(1);
    backend.wait();
    fastest = std::min(fastest, backend.seconds_between(0, 1));
  }
  return fastest;
}

}  // namespace

std::unique_ptr<Tuner> make_tuner(Backend& backend, const Drafter& drafter, const std::string& head,
                                  const EngineOptions& options) {
  const TreeShape tree = largest_tree(options);
  std::vector<Tuner::Arm> arms;
  for (const DraftArm& arm : drafter.arms())
    arms.push_back({!arm.head.empty() ? arm.head : head == "auto" ? "full" : head, arm.translation});
  // Trees of a fixed shape that only repeat the text are drafts like any other.
  if (arms.empty() && options.tree) arms.push_back({});
  auto make = [&] { return std::make_unique<Tuner>(arms, !options.tree, tree.levels()); };
  if (arms.size() < 2) return make();
  std::size_t at = 0;
  for (const DraftArm& arm : drafter.arms()) {
    const auto rows = static_cast<std::size_t>(tree.branch);
    const auto dim = static_cast<std::size_t>(arm.rows->matrices()[0]->cols());
    std::mt19937 random(1);  // states of noise: how long a head takes hardly depends on them
    std::normal_distribution<float> normal;
    std::vector<float> values(rows * dim);
    for (float& value : values) value = normal(random);
    const Buffer states = backend.allocate(values.size() * sizeof(float));
    backend.upload(states.as<void>(), values.data(), values.size() * sizeof(float));
    const Buffer ids = backend.allocate(rows * rows * sizeof(std::int32_t));
    const Buffer scores = backend.allocate(rows * rows * sizeof(float));
    const BestTokens best{.ids = ids.as<std::int32_t>(), .scores = scores.as<float>(), .k = tree.branch};
    const Tensor matrix = states.matrix(tree.branch, static_cast<std::int64_t>(dim));
    arms[at].root_seconds = time_head(backend, *arm.rows, matrix, 1, best);
    if (tree.branch > 1) {
      const double level = time_head(backend, *arm.rows, matrix, tree.branch, best);
      arms[at].row_seconds = std::max(0.0, (level - arms[at].root_seconds) / (tree.branch - 1));
    }
    ++at;
  }
  return make();
}

}  // namespace frspec
