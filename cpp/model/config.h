// What a GGUF file says about a transformer: its shape, its rope, its limits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gguf/gguf_file.h"

namespace frspec {

inline constexpr int kMaxContext = 1 << 30;  // tokens

struct RopeConfig {
  bool interleaved = true;  // a property of the architecture: Llama's Q/K are permuted at conversion
  double base = 10000.0;
  int dims = 0;  // rotated dimensions per head
  enum class Scaling { None, Linear, Yarn } scaling = Scaling::None;
  double factor = 1.0;            // of Linear and Yarn: context is stretched by it
  int original_context = 0;       // Yarn
  double attention_factor = 1.0;  // on cos and sin, beside Yarn's own 0.1 ln(factor) + 1
  double extrapolation = 1.0;     // Yarn: how far fast pairs keep their frequency; 1: they do
  double beta_fast = 32.0;        // Yarn
  double beta_slow = 1.0;         // Yarn
};

struct ModelConfig {
  std::string architecture;  // "llama", "qwen2", "qwen3", "eagle2", "eagle3"
  std::string name;          // general.name, or empty
  int layers = 0;
  int dim = 0;  // embedding width
  int ff = 0;   // feed-forward width
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;
  int context = 0;        // tokens the model was trained for
  int context_limit = 0;  // that may be asked for
  float epsilon = 1e-5f;
  RopeConfig rope;
  bool qk_norm = false;  // qwen3: RMS norm of every query and key head
  int target_dim = 0;    // drafters: width of the target's hidden states
};

// Whether the file is a whole language model: a target, or a drafter that needs none.
bool is_causal(const GgufFile& file);

// Reads and checks the configuration of a target model ("llama", "qwen2", "qwen3").
// Throws InvalidInput naming file, key, found and expected: an unknown architecture, absurd sizes, an unsupported
// variant (experts, per-layer head counts, unknown rope scaling).
ModelConfig read_causal_config(const GgufFile& file);

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
