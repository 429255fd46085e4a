// What a drafter's scores are worth.
#include "engine/acceptance.h"

#include <algorithm>
#include <cmath>

namespace frspec {
namespace {

// Nodes that a cell remembers: enough for a percent or two, few enough to follow a text that changes.
constexpr float kCellMemory = 128.0f;
// Nodes that a guess counts for: of a kind beside its own nodes, and of a drafter's word beside the kind's.
constexpr float kCellPrior = 6.0f, kPooledPrior = 3.0f, kContinuedPrior = 4.0f;
// Expected nodes that a drafter's word counts for before it was ever checked: one that is of no use is found out within
// a few steps.
constexpr float kTrustPrior = 4.0f, kTrustMemory = 200.0f;
constexpr float kMoodMemory = 0.93f;  // it forgets with each step
constexpr float kSurest = 0.995f;     // nothing is certain
constexpr float kGuessOfContinuation = 0.85f;

// Upper ends of the bins of a score, -log p.
constexpr std::array<float, Acceptance::kBins - 1> kScoreEnds = {0.01f, 0.03f, 0.07f, 0.13f, 0.2f, 0.3f, 0.45f, 0.65f,
                                                                 0.9f,  1.2f,  1.6f,  2.2f,  3.0f, 4.0f, 6.0f};

int bin_of_score(float score) {
  const auto end = std::upper_bound(kScoreEnds.begin(), kScoreEnds.end(), -score);
  return static_cast<int>(end - kScoreEnds.begin());
}

// What a drafter's word is worth, a bin's: on recorded pairs (an EAGLE-3 drafter, a whole model of another vocabulary)
// a target agrees a little more often with what is likely, and less with what is not.
float word_of_bin(int bin) {
  constexpr float kSharper = 1.2f, kLikelier = 0.1f;
  const float low = bin == 0 ? 0.0f : kScoreEnds[static_cast<std::size_t>(bin) - 1];
  const float high = bin == Acceptance::kBins - 1 ? 8.0f : kScoreEnds[static_cast<std::size_t>(bin)];
  const float word = std::exp(-0.5f * (low + high));
  return 1.0f / (1.0f + std::exp(-kLikelier) * std::pow((1.0f - word) / word, kSharper));
}

// What is expected of a token behind so many that were seen before: bin 0 is one token.
float word_of_match(int bin) { return 1.0f - 0.7f / (1.0f + 0.45f * static_cast<float>(bin)); }

int depth_class(int depth) { return depth <= 2 ? depth - 1 : depth <= 4 ? 2 : 3; }

}  // namespace

void Acceptance::Count::add(bool hit, float memory) {
  if (trials >= memory) {
    hits *= memory / (trials + 1.0f);
    trials *= memory / (trials + 1.0f);
  }
  hits += hit ? 1.0f : 0.0f;
  trials += 1.0f;
}

int Acceptance::cell_of(int kind, int depth, int bin) { return (kind * kDepths + depth_class(depth)) * kBins + bin; }

const Acceptance::Count& Acceptance::pooled(std::uint16_t cell) const {
  return pooled_[static_cast<std::size_t>(cell / (kDepths * kBins) * kBins + cell % kBins)];
}

float Acceptance::given(std::uint16_t cell) const {
  const int kind = cell / (kDepths * kBins), bin = cell % kBins;
  const Trust& trust = trust_[static_cast<std::size_t>(kind)];
  const float word = kind >= 2 * kTranslations ? word_of_match(bin) : word_of_bin(bin);
  const float prior = std::min(kSurest, word * trust.value(kTrustPrior));
  const Count& all = pooled(cell);
  const float among_kind = (all.hits + kPooledPrior * prior) / (all.trials + kPooledPrior);
  const Count& own = cells_[cell];
  return (own.hits + kCellPrior * among_kind) / (own.trials + kCellPrior);
}

float Acceptance::moody(float chance, bool repeated) const {
  const float mood = mood_[repeated ? 1 : 0].value(kMoodPrior);
  const float found = mood < 1.0f ? chance * mood : 1.0f - (1.0f - chance) / mood;
  return std::clamp(found, 0.0f, kSurest);
}

NodeNote Acceptance::judge(const NodeNote& parent, float score, int depth) const {
  const auto cell = static_cast<std::uint16_t>(cell_of(drafted_, depth, bin_of_score(score)));
  return {parent.chance * moody(given(cell), false), cell};
}

NodeNote Acceptance::judge_repeated(const NodeNote& parent, int matched, int depth) const {
  // Whoever has come so far has seen the tokens in between match, too.
  const int bin = std::min(matched + depth - 2, kBins - 1);
  const auto cell = static_cast<std::uint16_t>(cell_of(repeated_, depth, bin));
  return {parent.chance * moody(given(cell), true), cell};
}

double Acceptance::continues(const NodeNote& note) const {
  const Count& count = continued_[static_cast<std::size_t>(note.cell / (kDepths * kBins) * kBins + note.cell % kBins)];
  const float guess = kGuessOfContinuation * trust_[note.cell / (kDepths * kBins)].value(kTrustPrior);
  const float found = (count.hits + kContinuedPrior * std::min(guess, kSurest)) / (count.trials + kContinuedPrior);
  return static_cast<double>(moody(found, false));
}

void Acceptance::learn(std::uint16_t cell, bool accepted) {
  const int kind = cell / (kDepths * kBins), bin = cell % kBins;
  const bool repeated = kind >= 2 * kTranslations;
  Trust& mood = mood_[repeated ? 1 : 0];
  mood.found += accepted ? 1.0f : 0.0f;
  mood.expected += given(cell);
  Trust& trust = trust_[static_cast<std::size_t>(kind)];
  trust.found += accepted ? 1.0f : 0.0f;
  trust.expected += repeated ? word_of_match(bin) : word_of_bin(bin);
  if (trust.expected > kTrustMemory) {
    trust.found *= kTrustMemory / trust.expected;
    trust.expected = kTrustMemory;
  }
  cells_[cell].add(accepted, kCellMemory);
  pooled_[static_cast<std::size_t>(kind * kBins + bin)].add(accepted, kCellMemory);
}

void Acceptance::learn_continuation(std::uint16_t cell, bool accepted) {
  continued_[static_cast<std::size_t>(cell / (kDepths * kBins) * kBins + cell % kBins)].add(accepted, kCellMemory);
}

void Acceptance::end_step() {
  for (Trust& mood : mood_) {
    mood.found *= kMoodMemory;
    mood.expected *= kMoodMemory;
  }
}

std::array<float, 2 * (Acceptance::kCells + Acceptance::kKinds * Acceptance::kBins)> Acceptance::numbers() const {
  std::array<float, 2 * (kCells + kKinds * kBins)> all = {};
  std::size_t at = 0;
  const auto put = [&](const Count& count) {
    all[at++] = count.hits;
    all[at++] = count.trials;
  };
  for (const Count& count : cells_) put(count);
  for (const Count& count : continued_) put(count);
  return all;
}

void Acceptance::restore(std::span<const float> numbers) {
  std::size_t at = 0;
  const auto take = [&](Count& count) {
    count = {numbers[at], numbers[at + 1]};
    at += 2;
  };
  pooled_ = {};
  trust_ = {};
  for (int cell = 0; cell < kCells; ++cell) {
    Count& count = cells_[static_cast<std::size_t>(cell)];
    take(count);
    const int kind = cell / (kDepths * kBins), bin = cell % kBins;
    Count& all = pooled_[static_cast<std::size_t>(kind * kBins + bin)];
    all.hits += count.hits;
    all.trials += count.trials;
    Trust& trust = trust_[static_cast<std::size_t>(kind)];
    trust.found += count.hits;
    trust.expected += count.trials * (kind >= 2 * kTranslations ? word_of_match(bin) : word_of_bin(bin));
  }
  for (Count& count : continued_) take(count);
  for (Trust& trust : trust_) {
    if (trust.expected <= kTrustMemory) continue;
    trust.found *= kTrustMemory / trust.expected;
    trust.expected = kTrustMemory;
  }
}

}  // namespace frspec
