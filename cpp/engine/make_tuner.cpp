// Making tuners.
#include "engine/make_tuner.h"

#include <algorithm>
#include <random>

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

std::unique_ptr<Tuner> make_tuner(Backend& backend, Drafter& drafter, ChoiceHead* choice, const std::string& name,
                                  const TreeShape& tree) {
  std::vector<TreeShape> shapes = {tree};
  if (choice != nullptr && drafter.reshape(tree)) shapes = shapes_up_to(tree);
  if (choice == nullptr) return std::make_unique<Tuner>(std::vector<Tuner::Head>{{name}}, shapes);
  const auto rows = static_cast<std::size_t>(tree.branch);
  const auto dim = static_cast<std::size_t>(choice->policies()[0].head->matrices()[0]->cols());
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
  std::vector<Tuner::Head> heads;
  for (const ChoiceHead::Policy& policy : choice->policies()) {
    heads.push_back({policy.name, time_head(backend, *policy.head, matrix, 1, best),
                     time_head(backend, *policy.head, matrix, tree.branch, best)});
  }
  return std::make_unique<Tuner>(std::move(heads), std::move(shapes));
}

}  // namespace frspec
