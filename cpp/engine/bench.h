// Timing: passes of the target, levels of the drafter, whole texts; each beside the machine's ceilings, which are
// measured in the same run.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace frspec {

struct BenchOptions {
  EngineOptions engine;                                 // its head is ignored: see `heads`
  std::vector<int> prompts{512};                        // pp: tokens of a prompt
  std::vector<int> texts{128};                          // tg: tokens of a plain text
  std::vector<int> trees{1, 2, 4, 8, 16, 32, 64, 128};  // verify: nodes of a tree
  std::vector<std::string> heads{"full"};               // with a drafter: a level of its tree, by head
  int context = 0;                                      // tokens that stand before what is timed
  int repetitions = 5;
  std::optional<float>
      synthetic_acceptance;  // with a drafter: whole texts, accepting as Instruments::pretend_acceptance
  // Called before every repetition, of which `done` of `total` are over; throwing ends the run.
  std::function<void(const std::string& test, int done, int total)> on_progress;
};

struct BenchRow {
  // "pp512", "tg128", "verify 16", "delta rule pp512", "delta rule 16", "draft level, full", "loop, full"
  std::string test;
  int rows = 0;               // of a pass
  double milliseconds = 0.0;  // of a pass, a level or a step: median over repetitions
  double deviation = 0.0;     // their standard deviation
  double tokens_per_second = 0.0;
  double bytes = 0.0;               // of weights, as the file stores them, and of keys and values that a pass reads
  double macs = 0.0;                // its multiply-adds
  double arithmetic_seconds = 0.0;  // that these would take at the measured peaks
  // Bandwidth changes with what else the machine does, so it is measured between the repetitions of each test.
  double bytes_per_second = 0.0;    // of plain reading of the target's weights, then
  double floor_milliseconds = 0.0;  // the larger of bytes / bandwidth and multiply-adds / peak
  bool memory_bound = true;         // which of the two it is
  double share = 0.0;               // parts of a pass only: of its time
  bool loop = false;                // a whole text, not a pass: the fields of its cost are not set
  double accepted_length = 0.0;     // loops only
  double speedup = 0.0;             // loops only: over plain decoding of the same length
};

struct BenchReport {
  std::string machine;  // processor, as the system names it
  std::string device;   // the backend's description
  std::string model;    // general.name, or the file's name
  std::string types;    // "Q4_K 55 %, Q6_K 45 %": of the bytes of a pass
  std::int64_t model_bytes = 0;
  std::int64_t parameters = 0;  // in the matrices of a pass
  int context = 0;
  std::optional<float> synthetic_acceptance;
  double bytes_per_second = 0.0;              // of plain reading: median over the run
  double macs_per_second[kArithmetics] = {};  // in each arithmetic
  std::vector<BenchRow> rows;
};

// Throws InvalidInput for options that make no sense, and what making an engine throws.
BenchReport run_bench(const BenchOptions& options);

}  // namespace frspec
