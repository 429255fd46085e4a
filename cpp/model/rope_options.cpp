// Bringing a user's rope options into a model's configuration.
#include "model/rope_options.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"

namespace frspec {
namespace {

using Scaling = RopeConfig::Scaling;

void check(const char* name, float value, bool good, const char* expected) {
  if (!std::isfinite(value) || !good) fail(name, ": found ", value, ", expected ", expected);
}

// Tokens that the model was trained for before its context was stretched.
double unscaled_context(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (rope.scaling == Scaling::Yarn) return rope.original_context;
  return rope.scaling == Scaling::Linear ? config.context / rope.factor : config.context;
}

}  // namespace

RopeConfig::Scaling parse_rope_scaling(std::string_view name) {
  if (name == "none") return Scaling::None;
  if (name == "linear") return Scaling::Linear;
  if (name == "yarn") return Scaling::Yarn;
  fail("rope_scaling_type: found ", quoted(name), ", expected none, linear or yarn");
}

void check_rope_options(const RopeOptions& o) {
  constexpr const char* kOrModels = "a number above 0, or a negative one: the model's";
  check("rope_freq_base", o.freq_base, o.freq_base >= 0.0f, "a number above 0, or 0: the model's");
  check("rope_freq_scale", o.freq_scale, o.freq_scale >= 0.0f,
        "a number above 0 (1/4 stretches the context by 4), or 0: the model's");
  if (o.original_context < 0) {
    fail("yarn_orig_ctx: found ", o.original_context, ", expected 1 or more tokens, or 0: the model's");
  }
  check("yarn_ext_factor", o.extrapolation, true, "a number of at least 0, or a negative one: the model's");
  check("yarn_attn_factor", o.attention_factor, o.attention_factor != 0.0f, kOrModels);
  check("yarn_beta_fast", o.beta_fast, o.beta_fast != 0.0f, kOrModels);
  check("yarn_beta_slow", o.beta_slow, o.beta_slow != 0.0f, kOrModels);
}

void apply(const RopeOptions& options, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  const double unscaled = unscaled_context(config);
  const double factor_before = rope.factor;
  const int original_before = rope.original_context;
  const Scaling scaling_before = rope.scaling;

  if (options.freq_base > 0.0f) {
    rope.base = static_cast<double>(options.freq_base);
    config.context_limit = kMaxContext;
  }
  if (options.scaling) rope.scaling = *options.scaling;
  if (options.freq_scale > 0.0f && !options.scaling && rope.scaling == Scaling::None) rope.scaling = Scaling::Linear;
  if (options.freq_scale > 0.0f) rope.factor = 1.0 / static_cast<double>(options.freq_scale);
  if (rope.scaling == Scaling::None) rope.factor = 1.0;
  // YaRN is linear scaling that leaves fast pairs alone: by how much it does is what turns it on and off.
  if (options.extrapolation >= 0.0f) {
    rope.extrapolation = static_cast<double>(options.extrapolation);
    rope.scaling = rope.extrapolation > 0.0        ? Scaling::Yarn
                   : rope.scaling == Scaling::Yarn ? Scaling::Linear
                                                   : rope.scaling;
  }
  if (options.original_context > 0) rope.original_context = options.original_context;
  if (rope.original_context == 0) rope.original_context = static_cast<int>(unscaled);
  if (options.attention_factor > 0.0f) rope.attention_factor *= static_cast<double>(options.attention_factor);
  if (options.beta_fast > 0.0f) rope.beta_fast = static_cast<double>(options.beta_fast);
  if (options.beta_slow > 0.0f) rope.beta_slow = static_cast<double>(options.beta_slow);

  const bool moved_origin = rope.scaling == Scaling::Yarn && rope.original_context != original_before;
  if (rope.scaling == scaling_before && rope.factor == factor_before && !moved_origin) return;
  const double trained = rope.scaling == Scaling::Yarn ? rope.original_context : unscaled;
  config.context = static_cast<int>(std::clamp(trained * rope.factor, 1.0, static_cast<double>(kMaxContext)));
  config.context_limit = options.freq_base > 0.0f ? kMaxContext : config.context;
}

}  // namespace frspec
