// What an engine will take of a device's memory, before anything is loaded; and how long a context fits.
#pragma once

#include <memory>

#include "engine/options.h"
#include "gguf/gguf_file.h"
#include "model/causal_model.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

struct MemoryPlanRequest {
  const EngineOptions& options;
  Backend& device;
  std::shared_ptr<const GgufFile> target, drafter;  // drafter: null without one
  std::shared_ptr<const Tokenizer> tokenizer;
  ModelLimits limits;  // of the target; its context is the one that is wanted
  ModelTaps taps;
};

// Counts the bytes of the models, heads, caches and activations that the request's engine would have. Throws
// InvalidInput as making them would.
MemoryPlan plan_memory(const MemoryPlanRequest& request);

// The longest context, up to the plan's, that fits into what is free. Throws OutOfMemory where it must be the plan's
// own
// (`is_fixed`), or none of use fits: it names the file, what is needed for what, what is free, and what would help.
int fit_context(const MemoryPlan& plan, const MemoryPlanRequest& request, bool is_fixed);

}  // namespace frspec
