// How often drafted nodes are accepted: what a drafter's own scores are worth, learned from nodes that the target has
// judged. Nodes whose scores and depths are alike share a cell; a cell of few nodes leans on its kind, and all of them
// on a mood that follows the latest steps, since some texts are easier than others.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "tree/growth.h"

namespace frspec {

class Acceptance {
 public:
  // Where a node's score comes from. Under noise (temperature above 0) scores mean something else, and so they do where
  // another translation made them.
  static constexpr int kTranslations = 2;
  void use(int translation, bool noisy) {
    drafted_ = 2 * translation + (noisy ? 1 : 0);
    repeated_ = 2 * kTranslations + (noisy ? 1 : 0);
  }

  NodeNote judge(const NodeNote& parent, float score, int depth) const;
  NodeNote judge_repeated(const NodeNote& parent, int matched, int depth) const;
  // The probability that one of the children of a node like this one is accepted if the node is.
  double continues(const NodeNote& note) const;

  // The target was asked for the token after a node, and said this child, or something else.
  void learn(std::uint16_t cell, bool accepted);
  // Likewise for a node that had children: whether it was any of them.
  void learn_continuation(std::uint16_t cell, bool accepted);
  // A step is over: what it told counts for the mood.
  void end_step();
  // Accepted drafts of the latest steps over those that were to be expected.
  double mood() const { return mood_[0].value(kMoodPrior); }

  // What is kept from process to process: hits and trials of all cells.
  static constexpr int kKinds = 2 * kTranslations + 2, kDepths = 4, kBins = 16;
  static constexpr int kCells = kKinds * kDepths * kBins;
  std::array<float, 2 * (kCells + kKinds * kBins)> numbers() const;
  void restore(std::span<const float> numbers);

 private:
  struct Count {
    float hits = 0.0f, trials = 0.0f;
    void add(bool hit, float memory);
  };
  // Nodes that it needs to change anything.
  static constexpr float kMoodPrior = 5.0f;
  static int cell_of(int kind, int depth, int bin);
  float given(std::uint16_t cell) const;  // before the mood
  float moody(float chance, bool repeated) const;
  const Count& pooled(std::uint16_t cell) const;

  int drafted_ = 0, repeated_ = 2 * kTranslations;
  std::array<Count, kCells> cells_ = {};
  std::array<Count, kKinds * kBins> pooled_ = {};  // of all depths
  std::array<Count, kKinds * kBins> continued_ = {};
  // Accepted nodes over those that were to be expected: of a kind since ever, and of the latest steps.
  struct Trust {
    float found = 0.0f, expected = 0.0f;
    float value(float prior) const { return (found + prior) / (expected + prior); }
  };
  std::array<Trust, kKinds> trust_ = {};
  std::array<Trust, 2> mood_ = {};  // of drafts, of repetitions
};

}  // namespace frspec
