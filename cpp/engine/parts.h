// What an engine is made of: the models, what runs them and what plans for them.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/chaos.h"
#include "draft/drafting.h"
#include "engine/memory_plan.h"
#include "engine/options.h"
#include "engine/planner.h"
#include "engine/target_runner.h"
#include "gguf/gguf_file.h"
#include "model/causal_model.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

struct EngineParts {
  // Reads everything. Throws InvalidInput, FileNotFound or OutOfMemory; nothing is left behind then.
  explicit EngineParts(const EngineOptions& given);
  EngineParts(const EngineParts&) = delete;
  EngineParts& operator=(const EngineParts&) = delete;
  ~EngineParts();

  // Another head policy for the drafter, as in EngineOptions::head. Where it throws, all stays as it was.
  void make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes = {});

  EngineOptions options;
  std::shared_ptr<const GgufFile> file;
  std::shared_ptr<const GgufFile> drafter_file;  // null without a drafter; `file` where that brings it
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<Backend> backend;
  std::optional<MemoryPlan> memory_plan;  // none where the device's memory is the host's
  int context = 0;                        // tokens of a sequence
  int batch = 0;                          // tokens of a prompt that a pass reads
  int max_size = 0, max_depth = 0;        // of a tree
  double spare = 0.0;  // room for what ended sequences leave in the caches, as a share of a whole context's
  std::unique_ptr<CausalModel> target;
  std::unique_ptr<TargetRunner> runner;
  std::shared_ptr<RankKeeper> ranks;   // null: ranks do not change
  std::unique_ptr<Drafting> drafting;  // null without a drafter
  std::unique_ptr<Planner> planner;    // likewise
  std::unique_ptr<Chaos> chaos;        // null but in tests

 private:
  void open_drafter(const ModelConfig& config);
  void plan_memory(ModelLimits& limits, const ModelTaps& taps);
  void tell_warnings() const;
};

}  // namespace frspec
