// What a GGUF file says about a transformer: its shape, its rope, its limits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gguf/gguf_file.h"
#include "model/architecture.h"

namespace frspec {

inline constexpr int kMaxContext = 1 << 30;  // tokens

struct RopeConfig {
  bool interleaved = true;  // a property of the architecture: Llama's Q/K are permuted at conversion
  double base = 10000.0;
  int dims = 0;  // rotated dimensions per head
  enum class Scaling { None, Linear, Yarn } scaling = Scaling::None;
  double factor = 1.0;            // of Linear and Yarn: context is stretched by it
  int original_context = 0;       // Yarn; `growth`; and from where on long factors of frequencies are for
  double attention_factor = 1.0;  // on cos and sin, beside Yarn's own 0.1 ln(factor) + 1
  double log_multiplier = 0.0;    // Yarn's own is divided by 0.1 this ln(factor) + 1; 0: it is not
  double extrapolation = 1.0;     // Yarn: how far fast pairs keep their frequency; 1: they do
  double beta_fast = 32.0;        // Yarn
  double beta_slow = 1.0;         // Yarn
  bool longrope = false;          // frequencies have divisors, of which there are two sets
  bool truncated = true;          // Yarn's range of pairs is rounded outwards
  double growth = 0.0;            // queries times 1 + growth ln(1 + floor(position / original_context))
};

struct ModelConfig {
  Architecture style;
  std::string name;  // general.name, or empty
  int layers = 0;    // without nextn blocks
  int nextn = 0;     // blocks behind them, which draft (draft/mtp.h)
  int dim = 0;       // embedding width
  int ff = 0;        // feed-forward width, or that of an expert
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;
  int context = 0;        // tokens the model was trained for
  int context_limit = 0;  // that may be asked for
  float epsilon = 1e-5f;
  RopeConfig rope;
  std::optional<RopeConfig> local_rope;  // of layers that see a window only, where it is another one
  std::vector<bool> is_windowed;         // (layers); empty: none is
  int window = 0;                        // positions, the row's own among them
  std::vector<bool> is_unrotated;        // (layers) without rope; empty: none is
  std::vector<bool> is_recurrent;        // (layers) gated delta layers; empty: none is
  DeltaShape delta;
  float embedding_scale = 1.0f;
  float attention_scale = 0.0f;  // of scores
  float residual_scale = 1.0f;   // of what a branch adds to the stream
  float score_cap = 0.0f;        // 0: none
  LogitRule logit_rule;
  int experts = 0;       // 0: the feed-forward is dense
  int experts_used = 0;  // by each row
  int target_dim = 0;    // drafters: width of the target's hidden states
  int mtp_block = 0;     // of read_mtp_config: where the nextn block is

  bool windowed(int layer) const { return !is_windowed.empty() && is_windowed[static_cast<std::size_t>(layer)]; }
  bool recurrent(int layer) const {  // nextn blocks never are
    return static_cast<std::size_t>(layer) < is_recurrent.size() && is_recurrent[static_cast<std::size_t>(layer)];
  }
  int recurrent_layers() const { return static_cast<int>(std::ranges::count(is_recurrent, true)); }
  int attention_layers() const { return layers - recurrent_layers(); }
  // Of the recurrent state that a sequence has in all layers.
  std::size_t state_bytes() const {
    return sizeof(float) * static_cast<std::size_t>(delta.state_floats()) *
           static_cast<std::size_t>(recurrent_layers());
  }
  bool unrotated(int layer) const { return !is_unrotated.empty() && is_unrotated[static_cast<std::size_t>(layer)]; }
};

// Whether the file is a whole language model: a target, or a drafter that needs none.
bool is_causal(const GgufFile& file);

// Reads and checks the configuration of a whole model, of any row of the table in architecture.cpp.
// Throws InvalidInput naming file, key, found and expected: an unknown architecture, absurd sizes, an unsupported
// variant (per-layer head counts, unknown rope scaling).
ModelConfig read_causal_config(const GgufFile& file);

// The same for a nextn block, as a model of that block alone (draft/mtp.h).
ModelConfig read_mtp_config(const GgufFile& file);

// The same for EAGLE drafters (docs/formats.md).
ModelConfig read_eagle2_config(const GgufFile& file);
ModelConfig read_eagle3_config(const GgufFile& file);

// What an EAGLE-3 drafter's file says beyond that.
struct Eagle3Options {
  std::vector<int> target_layers;  // whose inputs fc joins; the number of layers stands for the last one's output
  enum class FcNorm : std::uint8_t {
    None,
    Joined,  // one norm over the joined taps
    PerTap,  // one norm for each, their weights side by side
  } fc_norm = FcNorm::None;
  bool norm_before_residual = false;  // the stream begins with the normed state
  bool norm_output = false;           // the next level gets the output behind the final norm
};
Eagle3Options read_eagle3_options(const GgufFile& file);

}  // namespace frspec
