#include "model/architecture.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace frspec {
namespace {

// A new architecture that is a variation of Llama's block is one entry here (see CONTRIBUTING.md).
constexpr std::array kArchitectures = {
    Architecture{.name = "llama", .interleaved_rope = true, .experts = ExpertUse::Perhaps},
    Architecture{.name = "qwen2"},
    Architecture{.name = "qwen3", .qk_norm = QkNorm::PerHead},
    Architecture{.name = "qwen3moe", .qk_norm = QkNorm::PerHead, .experts = ExpertUse::Always},
    Architecture{.name = "qwen35", .qk_norm = QkNorm::PerHead, .ff_norm = "post_attention_norm", .is_hybrid = true},
    Architecture{.name = "mistral3", .interleaved_rope = true},
    Architecture{.name = "gemma2",
                 .post_norms = true,
                 .activation = Activation::Gelu,
                 .root_embedding = true,
                 .window_period = 2,
                 .window = 4096,
                 .score_cap = 50.0f,
                 .logit_cap = 30.0f,
                 .wide_scale_layers = 46},
    Architecture{.name = "gemma3",
                 .qk_norm = QkNorm::PerHead,
                 .post_norms = true,
                 .activation = Activation::Gelu,
                 .root_embedding = true,
                 .window_period = 6,
                 .local_base = 10000.0,
                 .local_scaling = false,
                 .wide_scale_layers = 62},
    Architecture{.name = "phi3", .gate_in_up = true, .window_period = kAllWindows},
    Architecture{.name = "smollm3", .interleaved_rope = true, .unrotated_period = 4},
    Architecture{.name = "olmo2",
                 .qk_norm = QkNorm::Whole,
                 .pre_norms = false,
                 .post_norms = true,
                 .window_period = 4,
                 .local_scaling = false},
    Architecture{.name = "granite", .interleaved_rope = true, .has_scales = true},
    Architecture{.name = "gpt-oss",
                 .ff_norm = "post_attention_norm",
                 .activation = Activation::Clamped,
                 .has_sinks = true,
                 .experts = ExpertUse::Always,
                 .window_period = 2,
                 .needs_window = true,
                 .truncated_yarn = false},
};

}  // namespace

const Architecture* find_architecture(std::string_view name) {
  const auto* found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                   [name](const Architecture& candidate) { return candidate.name == name; });
  return found != kArchitectures.end() ? found : nullptr;
}

std::string architecture_names() {
  std::string names;
  for (const Architecture& known : kArchitectures) names += concat(names.empty() ? "'" : ", '", known.name, "'");
  return names;
}

}  // namespace frspec
