#include "engine/calibration.h"

#include <exception>
#include <vector>

#include "engine/step_times.h"

namespace frspec {
namespace {

constexpr int kTokens = 64, kRehearsed = 4;  // tokens at most, and steps
constexpr int kRounds = 3;
constexpr double kSeconds = 1.5;  // for trees that are rarely wanted

// How long passes of a few sizes take. What they write is of no account.
void time_trees(TargetRunner& runner, Tuner& tuner, const EngineOptions& options) {
  const int most = tree_bounds(options).size;
  const std::vector<int> sizes = options.tree ? std::vector{1, most} : std::vector{1, 2, 3, 4, 6, 8, 12, 16};
  const auto seconds_of = [&](int nodes) {
    const std::vector<TokenId> tokens = some_tokens(nodes, runner.target().config().vocab);
    std::vector<std::int32_t> parents(static_cast<std::size_t>(nodes), 0);  // all below the root
    parents[0] = -1;
    const auto start = Clock::now();
    runner.try_tree(0, tokens, parents);
    return seconds_since(start);
  };
  seconds_of(1);  // brings the file into memory
  const auto beginning = Clock::now();
  // By turns: a moment in which the machine is slow is not one size's alone. Large trees are rarely wanted.
  for (int round = 0; round < kRounds; ++round) {
    for (const int nodes : sizes) {
      if (nodes > most || (round > 0 && nodes > 2 && seconds_since(beginning) > kSeconds)) continue;
      if (nodes > 8 && seconds_since(beginning) > kSeconds / 2) continue;
      tuner.know_target(nodes, seconds_of(nodes));
    }
  }
}

}  // namespace

void calibrate(EngineParts& parts, Places& places, const std::function<void(Sequence&)>& advance) {
  Tuner& tuner = parts.planner->tuner();
  if (tuner.knows_costs()) return;
  try {
    places.take_over();
    time_trees(*parts.runner, tuner, parts.options);
    Sequence sequence(parts.tokenizer, parts.file->path().string(), parts.context, {0},
                      {.max_tokens = kTokens, .ignore_eos = true, .draft = DraftMode::Always, .reuse = false});
    tuner.rehearse({1, 1, 2, 4});
    for (int step = 0; step < kRehearsed && sequence.finish_reason() == FinishReason::None; ++step) advance(sequence);
  } catch (const std::exception&) {  // a model that overflows says so when it is asked for a text
  }
  places.drop_all();
  tuner.rehearse({});
  parts.drafting->forget_states();
}

}  // namespace frspec
