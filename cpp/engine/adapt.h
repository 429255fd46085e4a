// Ranks that adapt, in an engine: what they begin with, and what they cannot be combined with.
#pragma once

#include <memory>

#include "engine/options.h"
#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"
#include "vocab/adaptive_ranks.h"
#include "vocab/head_spec.h"

namespace frspec {

// Throws InvalidInput where ranks should adapt, but the head has no rows that follow them.
void check_adapt(const EngineOptions& options, const HeadSpec& head);

// The ranks that the options ask for; null where none should adapt. `drafter`: its file.
std::shared_ptr<AdaptiveRanks> make_adaptive_ranks(const EngineOptions& options,
                                                   const std::shared_ptr<const Tokenizer>& tokenizer,
                                                   const GgufFile& drafter);

}  // namespace frspec
