// What a family of models does otherwise than Llama: one row of a table for each `general.architecture`. What differs
// from file to file (sizes, rope, scales) is in its keys; ModelConfig has both.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "backend/backend.h"

namespace frspec {

enum class QkNorm : std::uint8_t {
  None,
  PerHead,  // each head by itself, all with the same weights
  Whole,    // all heads of a row together
};

enum class ExpertUse : std::uint8_t {
  None,
  Perhaps,  // where the file has expert_count; as wide as the feed-forward would be
  Always,
};

// Layers that see only a window: all but the last of each `period`; kNoWindows, or kAllWindows.
inline constexpr int kAllWindows = 0;
inline constexpr int kNoWindows = 1;

struct Architecture {
  std::string_view name;
  bool interleaved_rope = false;  // pairs (2i, 2i + 1): Q and K were permuted at conversion
  QkNorm qk_norm = QkNorm::None;
  bool pre_norms = true;                  // attn_norm and `ff_norm`, of the inputs of both branches
  bool post_norms = false;                // post_attention_norm and post_ffw_norm, of their outputs
  std::string_view ff_norm = "ffn_norm";  // the tensor's name
  Activation activation = Activation::Silu;
  bool gate_in_up = false;  // ffn_up holds the gate's rows, then its own
  bool has_sinks = false;   // attn_sinks
  bool is_hybrid = false;   // gated delta layers, and among them attention whose output has a gate, in attn_q
  ExpertUse experts = ExpertUse::None;
  bool root_embedding = false;     // embeddings times the root of their width
  bool has_scales = false;         // Granite's: key logit_scale must be there, rope.scaling.finetuned means something
  int window_period = kNoWindows;  // where the file says nothing
  int window = 0;                  // as much
  bool needs_window = false;       // the file must say it
  double local_base = 0.0;         // rope of windowed layers, where the file says nothing; 0: the same
  bool local_scaling = true;       // whether their rope is scaled, too
  int unrotated_period = 0;        // the last of each so many layers has no rope; 0: all have
  bool truncated_yarn = true;      // YaRN's range of pairs is rounded outwards to whole ones
  float score_cap = 0.0f;          // where the file says nothing; 0: none
  float logit_cap = 0.0f;          // as much
  int wide_scale_layers = 0;  // models of so many layers scale scores by the root of width / heads, not of the head
};

// The row of a whole model's architecture; null for an unknown one.
const Architecture* find_architecture(std::string_view name);
// All names, for messages: 'llama', 'qwen2' ...
std::string architecture_names();

// Of EAGLE drafters.
inline constexpr Architecture kEagle2{.name = "eagle2", .interleaved_rope = true};
inline constexpr Architecture kEagle3{.name = "eagle3", .interleaved_rope = true};

}  // namespace frspec
