// What a user may change about a model's rotary embedding when it is loaded, mostly to stretch its context. Names and
// meaning are llama.cpp's.
#pragma once

#include <optional>
#include <string_view>

#include "model/config.h"

namespace frspec {

struct RopeOptions {
  std::optional<RopeConfig::Scaling> scaling;  // none: the model's; "linear" where that has none
  float freq_base = 0.0f;                      // 0: the model's
  float freq_scale = 0.0f;                     // 1 / factor by which the context is stretched; 0: the model's
  int original_context = 0;                    // of YaRN: tokens before stretching; 0: the model's
  // Of YaRN; negative: the model's. `attention_factor` is a factor beside the model's own and 0.1 ln(factor) + 1.
  float extrapolation = -1.0f;
  float attention_factor = -1.0f;
  float beta_fast = -1.0f;
  float beta_slow = -1.0f;
};

// "none", "linear" or "yarn"; throws InvalidInput for others.
RopeConfig::Scaling parse_rope_scaling(std::string_view name);

// Throws InvalidInput that names the option.
void check_rope_options(const RopeOptions& options);

// Brings the options into a model's configuration. Its context becomes what the model was trained for, times the
// factor. Where the base was chosen nobody but the user knows how far that carries: any context is allowed then.
void apply(const RopeOptions& options, ModelConfig& config);

}  // namespace frspec
