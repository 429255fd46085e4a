// Reading a model's configuration.
#include "model/config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace frspec {
namespace {

struct Architecture {
  std::string_view name;
  bool interleaved_rope;
  bool qk_norm;
};

// A new architecture that is a variation of Llama's block is one line here (see CONTRIBUTING.md).
constexpr std::array kTargets = {
    Architecture{"llama", true, false},
    Architecture{"qwen2", false, false},
    Architecture{"qwen3", false, true},
};

constexpr int kMaxLayers = 4096;
constexpr int kMaxHeads = 4096;

class Reader {
 public:
  Reader(const GgufFile& file, std::string architecture) : file_(file), prefix_(std::move(architecture) + ".") {}

  std::string key(std::string_view name) const { return concat(prefix_, name); }

  int size(std::string_view name, std::int64_t most) const { return in_range(name, file_.get_int(key(name)), most); }

  int size_or(std::string_view name, std::int64_t most, std::int64_t fallback) const {
    return in_range(name, file_.find_int(key(name)).value_or(fallback), most);
  }

  double positive(std::string_view name, std::optional<double> fallback = {}) const {
    const auto found = file_.find_float(key(name));
    const double value = found ? *found : fallback ? *fallback : file_.get_float(key(name));
    if (!(value > 0.0)) bad(name, value, "a number above 0");
    return value;
  }

  // A size that layers may have of their own: a number, or an array (one per layer) whose entries are all the same.
  int layer_size(std::string_view name, std::int64_t most, std::optional<int> fallback = {}) const {
    const GgufEntry* entry = file_.find(key(name));
    if (entry == nullptr && fallback) return in_range(name, *fallback, most);
    if (entry == nullptr || entry->type != GgufType::Array) return size(name, most);
    const auto sizes = file_.find_ints(key(name));
    if (!sizes || sizes->empty()) bad(name, "an empty array", "one number per layer");
    for (const std::int64_t size : *sizes) {
      if (size != sizes->front()) bad(name, "different numbers per layer", "the same number for every layer");
    }
    return in_range(name, sizes->front(), most);
  }

  template <class Found>
  [[noreturn]] void bad(std::string_view name, const Found& found, std::string_view expected) const {
    fail(file_.path().string(), ": key '", key(name), "': found ", found, ", expected ", expected);
  }

 private:
  int in_range(std::string_view name, std::int64_t value, std::int64_t most) const {
    if (value < 1 || value > most) bad(name, value, concat("1 to ", most));
    return static_cast<int>(value);
  }

  const GgufFile& file_;
  std::string prefix_;
};

RopeConfig read_rope(const GgufFile& file, const Reader& reader, const ModelConfig& config, bool interleaved) {
  RopeConfig rope;
  rope.interleaved = interleaved;
  rope.base = reader.positive("rope.freq_base", 10000.0);
  rope.dims = reader.size_or("rope.dimension_count", config.head_dim, config.head_dim);
  if (rope.dims % 2 != 0) reader.bad("rope.dimension_count", rope.dims, "an even number");
  // As llama.cpp reads them: a factor without a type is linear, and old files call it rope.scale_linear.
  const char* factor_key =
      file.find(reader.key("rope.scaling.factor")) != nullptr ? "rope.scaling.factor" : "rope.scale_linear";
  const char* default_type = file.find(reader.key(factor_key)) != nullptr ? "linear" : "none";
  const std::string_view scaling = file.find_string(reader.key("rope.scaling.type")).value_or(default_type);
  if (scaling == "none") return rope;
  rope.factor = file.find_float(reader.key(factor_key)) == 0.0 ? 1.0 : reader.positive(factor_key, 1.0);
  if (scaling == "linear") {
    rope.scaling = RopeConfig::Scaling::Linear;
  } else if (scaling == "yarn") {
    rope.scaling = RopeConfig::Scaling::Yarn;
    constexpr std::string_view kOriginal = "rope.scaling.original_context_length";
    const bool unknown = file.find_int(reader.key(kOriginal)) == 0;  // as llama.cpp understands it
    rope.original_context = unknown ? config.context : reader.size_or(kOriginal, kMaxContext, config.context);
    rope.attention_factor = reader.positive("rope.scaling.attn_factor", 1.0);
    rope.beta_fast = reader.positive("rope.scaling.yarn_beta_fast", 32.0);
    rope.beta_slow = reader.positive("rope.scaling.yarn_beta_slow", 1.0);
  } else {
    reader.bad("rope.scaling.type", concat("'", scaling, "'"), "'none', 'linear' or 'yarn'");
  }
  return rope;
}

ModelConfig read_config(const GgufFile& file, const std::string& architecture, bool interleaved_rope) {
  const Reader reader(file, architecture);
  ModelConfig config;
  config.architecture = architecture;
  config.name = file.find_string("general.name").value_or("");
  config.layers = reader.size("block_count", kMaxLayers);
  config.dim = reader.size("embedding_length", 1 << 20);
  config.ff = reader.layer_size("feed_forward_length", 1 << 22);
  config.context = config.context_limit = reader.size("context_length", kMaxContext);
  config.heads = reader.layer_size("attention.head_count", kMaxHeads);
  config.kv_heads = reader.layer_size("attention.head_count_kv", kMaxHeads, config.heads);
  config.epsilon = static_cast<float>(reader.positive("attention.layer_norm_rms_epsilon"));
  config.head_dim = reader.size_or("attention.key_length", 1 << 14, std::max(1, config.dim / config.heads));
  const int value_dim = reader.size_or("attention.value_length", 1 << 14, config.head_dim);
  if (value_dim != config.head_dim) {
    reader.bad("attention.value_length", value_dim, concat("the same as attention.key_length, ", config.head_dim));
  }
  if (config.heads % config.kv_heads != 0) {
    reader.bad("attention.head_count_kv", config.kv_heads, concat("a divisor of attention.head_count, ", config.heads));
  }
  if (file.find_int(reader.key("expert_count")).value_or(0) > 0) {
    reader.bad("expert_count", file.get_int(reader.key("expert_count")), "0: mixtures of experts are not supported");
  }
  if (!file.find_bool(reader.key("attention.causal")).value_or(true)) {
    reader.bad("attention.causal", "false", "true: models that look ahead write no text");
  }
  config.rope = read_rope(file, reader, config, interleaved_rope);
  return config;
}

}  // namespace

bool is_causal(const GgufFile& file) {
  const std::string_view architecture = file.get_string("general.architecture");
  return std::any_of(std::begin(kTargets), std::end(kTargets),
                     [&](const Architecture& candidate) { return candidate.name == architecture; });
}

ModelConfig read_causal_config(const GgufFile& file) {
  const std::string architecture(file.get_string("general.architecture"));
  std::string known;
  for (const Architecture& candidate : kTargets) {
    if (candidate.name == architecture) {
      ModelConfig config = read_config(file, architecture, candidate.interleaved_rope);
      config.qk_norm = candidate.qk_norm;
      return config;
    }
    known += concat(known.empty() ? "'" : ", '", candidate.name, "'");
  }
  fail(file.path().string(), ": key 'general.architecture': found '", architecture, "', expected a target model of ",
       known);
}

ModelConfig read_eagle2_config(const GgufFile& file) {
  const std::string_view architecture = file.get_string("general.architecture");
  if (architecture != "eagle2") {
    fail(file.path().string(), ": key 'general.architecture': found '", architecture,
         "', expected a drafter: 'eagle2' or 'eagle3', or a language model, 'llama', 'qwen2' or 'qwen3'");
  }
  ModelConfig config = read_config(file, "eagle2", true);
  const Reader reader(file, "eagle2");
  config.target_dim = reader.size_or("target_hidden_size", 1 << 20, config.dim);
  config.vocab = reader.size("vocab_size", 1 << 30);
  return config;
}

ModelConfig read_eagle3_config(const GgufFile& file) {
  ModelConfig config = read_config(file, "eagle3", true);
  const Reader reader(file, "eagle3");
  if (config.layers != 1) reader.bad("block_count", config.layers, "1: EAGLE-3 has one block");
  config.target_dim = reader.size("target_hidden_size", 1 << 20);
  // llama.cpp goes by the tokenizer, and so may a file.
  const GgufStrings* tokens = file.find_strings("tokenizer.ggml.tokens");
  const bool stated = tokens == nullptr || file.find(reader.key("vocab_size")) != nullptr;
  config.vocab = stated ? reader.size("vocab_size", 1 << 30) : static_cast<int>(tokens->size());
  return config;
}

Eagle3Options read_eagle3_options(const GgufFile& file) {
  const Reader reader(file, "eagle3");
  Eagle3Options options;
  const auto layers = file.find_ints(reader.key("target_layers"));
  if (!layers) reader.bad("target_layers", "nothing", "an array of 3 layers of the target");
  if (layers->size() != 3) reader.bad("target_layers", concat(layers->size(), " layers"), "3 layers of the target");
  for (const std::int64_t layer : *layers) {
    if (layer < 0 || layer > kMaxLayers) reader.bad("target_layers", layer, concat("0 to ", kMaxLayers));
    options.target_layers.push_back(static_cast<int>(layer));
  }
  const auto flag = [&](std::string_view name) { return file.find_bool(reader.key(name)).value_or(false); };
  const bool joined = flag("norm_before_fc"), per_tap = flag("fc_norm");
  if (joined && per_tap) reader.bad("fc_norm", "true beside norm_before_fc", "one of them at most");
  options.fc_norm = joined    ? Eagle3Options::FcNorm::Joined
                    : per_tap ? Eagle3Options::FcNorm::PerTap
                              : Eagle3Options::FcNorm::None;
  options.norm_before_residual = flag("norm_before_residual");
  options.norm_output = flag("norm_output");
  return options;
}

}  // namespace frspec
