#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace frspec {
namespace {

constexpr int kMaxLayers = 4096;
constexpr int kMaxHeads = 4096;
constexpr int kMaxExperts = 1 << 16;

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

  double at_least_zero(std::string_view name, double fallback) const {
    const double value = file_.find_float(key(name)).value_or(fallback);
    if (!(value >= 0.0)) bad(name, value, "a number of at least 0");
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

// As llama.cpp reads them: a factor without a type is linear, and old files call it rope.scale_linear.
void read_rope_scaling(const GgufFile& file, const Reader& reader, const ModelConfig& config, RopeConfig& rope) {
  constexpr const char* kOriginal = "rope.scaling.original_context_length";
  // 0 is unknown, as llama.cpp understands it.
  const bool is_known = file.find(reader.key(kOriginal)) != nullptr && file.find_int(reader.key(kOriginal)) != 0;
  if (is_known) rope.original_context = reader.size(kOriginal, kMaxContext);
  rope.attention_factor = reader.positive("rope.scaling.attn_factor", 1.0);
  const char* factor_key =
      file.find(reader.key("rope.scaling.factor")) != nullptr ? "rope.scaling.factor" : "rope.scale_linear";
  const char* default_type = file.find(reader.key(factor_key)) != nullptr ? "linear" : "none";
  const std::string_view scaling = file.find_string(reader.key("rope.scaling.type")).value_or(default_type);
  rope.longrope = scaling == "longrope";
  if (scaling == "none" || rope.longrope) return;
  rope.factor = file.find_float(reader.key(factor_key)) == 0.0 ? 1.0 : reader.positive(factor_key, 1.0);
  if (scaling == "linear") {
    rope.scaling = RopeConfig::Scaling::Linear;
  } else if (scaling == "yarn") {
    rope.scaling = RopeConfig::Scaling::Yarn;
    if (rope.original_context == 0) rope.original_context = config.context;
    rope.beta_fast = reader.positive("rope.scaling.yarn_beta_fast", 32.0);
    rope.beta_slow = reader.positive("rope.scaling.yarn_beta_slow", 1.0);
    rope.log_multiplier = reader.at_least_zero("rope.scaling.yarn_log_multiplier", 0.0);
  } else {
    reader.bad("rope.scaling.type", concat("'", scaling, "'"), "'none', 'linear', 'yarn' or 'longrope'");
  }
}

void read_ropes(const GgufFile& file, const Reader& reader, ModelConfig& config) {
  const Architecture& style = config.style;
  RopeConfig& rope = config.rope;
  rope.interleaved = style.interleaved_rope;
  rope.truncated = style.truncated_yarn;
  // What a hybrid file leaves out is not what Llama's would mean by it.
  rope.base = style.is_hybrid ? reader.positive("rope.freq_base") : reader.positive("rope.freq_base", 10000.0);
  rope.dims = style.is_hybrid ? reader.size("rope.dimension_count", config.head_dim)
                              : reader.size_or("rope.dimension_count", config.head_dim, config.head_dim);
  if (rope.dims % 2 != 0) reader.bad("rope.dimension_count", rope.dims, "an even number");
  RopeConfig local = rope;
  read_rope_scaling(file, reader, config, rope);
  rope.growth = reader.at_least_zero("attention.temperature_scale", 0.0);
  if (style.local_scaling) local = rope;
  local.base = reader.positive("rope.freq_base_swa", style.local_base > 0.0 ? style.local_base : rope.base);
  if (!style.local_scaling || local.base != rope.base) config.local_rope = local;
  const auto layers = static_cast<std::size_t>(config.layers);
  if (!file.find_bool(reader.key("rope.scaling.finetuned")).value_or(true) && style.has_scales) {
    config.is_unrotated.assign(layers, true);  // Granite's way of saying that there is no rope
  } else if (style.unrotated_period > 0) {
    for (int i = 1; i <= config.layers; ++i) config.is_unrotated.push_back(i % style.unrotated_period == 0);
  }
}

// Which layers see a window only, by a period or one by one.
void read_windows(const GgufFile& file, const Reader& reader, ModelConfig& config) {
  const Architecture& style = config.style;
  constexpr const char* kWindow = "attention.sliding_window";
  constexpr const char* kPattern = "attention.sliding_window_pattern";
  if (style.window_period == kNoWindows) {
    // As in llama.cpp; but a text that is longer than the window is not what the model was trained for.
    if (const std::int64_t stated = file.find_int(reader.key(kWindow)).value_or(0);
        stated > 0 && stated < config.context) {
      file.warn(concat("key '", reader.key(kWindow), "': found ", stated, ", for which architecture '", style.name,
                       "' has no place: every token sees all before it"));
    }
    return;
  }
  const std::int64_t window = style.needs_window ? file.get_int(reader.key(kWindow))
                                                 : file.find_int(reader.key(kWindow)).value_or(style.window);
  if (window < 0) reader.bad(kWindow, window, "a number of tokens, or 0: no window");
  const GgufEntry* pattern = file.find(reader.key(kPattern));
  if (window == 0) {
    if (pattern != nullptr) reader.bad(kWindow, "nothing", concat("a window, for ", reader.key(kPattern)));
    return;
  }
  // Phi-3's files state one that is longer than anything, where there is none.
  if (window >= config.context && style.window_period == kAllWindows) return;
  if (window > config.context) reader.bad(kWindow, window, concat("at most the context, ", config.context));
  config.window = static_cast<int>(window);
  if (pattern != nullptr && pattern->type == GgufType::Array) {
    const auto flags = file.find_ints(reader.key(kPattern)).value();
    if (flags.size() != static_cast<std::size_t>(config.layers)) {
      reader.bad(kPattern, concat(flags.size(), " flags"), concat("one for each of ", config.layers, " layers"));
    }
    for (const std::int64_t flag : flags) config.is_windowed.push_back(flag != 0);
    return;
  }
  const std::int64_t period = file.find_int(reader.key(kPattern)).value_or(style.window_period);
  if (period < 0 || period > kMaxLayers) reader.bad(kPattern, period, concat("0 to ", kMaxLayers));
  for (int i = 0; i < config.layers; ++i) config.is_windowed.push_back(period == 0 || i % period < period - 1);
}

// Which layers are recurrent, one by one or by a period, and their shape.
void read_delta(const GgufFile& file, const Reader& reader, ModelConfig& config) {
  if (!config.style.is_hybrid) return;
  constexpr const char* kFlags = "attention.recurrent_layers";
  constexpr const char* kInterval = "full_attention_interval";
  if (file.find(reader.key(kFlags)) != nullptr) {
    const auto flags = file.find_ints(reader.key(kFlags));
    const std::size_t blocks = static_cast<std::size_t>(config.layers) + static_cast<std::size_t>(config.nextn);
    if (!flags || flags->size() != blocks) {
      reader.bad(kFlags, concat(flags ? flags->size() : 0, " flags"), concat("one for each of ", blocks, " blocks"));
    }
    for (int i = 0; i < config.layers; ++i) {
      config.is_recurrent.push_back((*flags)[static_cast<std::size_t>(i)] != 0);
    }
    for (std::size_t i = static_cast<std::size_t>(config.layers); i < blocks; ++i) {
      if ((*flags)[i] != 0) reader.bad(kFlags, concat("true for block ", i), "false: it is a nextn block");
    }
  } else {
    const int interval = reader.size_or(kInterval, kMaxLayers, 4);
    for (int i = 1; i <= config.layers; ++i) config.is_recurrent.push_back(i % interval != 0);
  }
  DeltaShape& delta = config.delta;
  delta.taps = reader.size("ssm.conv_kernel", 64);
  delta.head_dim = reader.size("ssm.state_size", 1 << 12);
  delta.key_heads = reader.size("ssm.group_count", kMaxHeads);
  delta.value_heads = reader.size("ssm.time_step_rank", kMaxHeads);
  const int inner = reader.size("ssm.inner_size", 1 << 24);
  if (delta.head_dim % kDeltaUnit != 0) {
    reader.bad("ssm.state_size", delta.head_dim, concat("a multiple of ", kDeltaUnit));
  }
  if (delta.value_heads % delta.key_heads != 0) {
    reader.bad("ssm.time_step_rank", delta.value_heads, concat("a multiple of ssm.group_count, ", delta.key_heads));
  }
  if (inner != delta.value_dim()) {
    reader.bad("ssm.inner_size", inner,
               concat(delta.value_dim(), ": ssm.time_step_rank heads of ssm.state_size elements"));
  }
}

void read_scales(const GgufFile& file, const Reader& reader, ModelConfig& config) {
  const Architecture& style = config.style;
  const bool wide = config.layers == style.wide_scale_layers;
  const float own = 1.0f / std::sqrt(static_cast<float>(wide ? config.dim / config.heads : config.head_dim));
  const auto scale = [&](const char* name, double fallback) {
    // A file may write 0 for none, as it may leave the key out.
    if (file.find_float(reader.key(name)) == 0.0) return static_cast<float>(fallback);
    return static_cast<float>(reader.positive(name, fallback));
  };
  config.attention_scale = scale("attention.scale", static_cast<double>(own));
  config.embedding_scale =
      scale("embedding_scale", style.root_embedding ? std::sqrt(static_cast<double>(config.dim)) : 1.0);
  config.residual_scale = scale("residual_scale", 1.0);
  // Granite cannot do without.
  config.logit_rule.scale =
      1.0f / (style.has_scales ? static_cast<float>(reader.positive("logit_scale")) : scale("logit_scale", 1.0));
  const auto cap = [&](const char* name, float fallback) {
    return static_cast<float>(reader.at_least_zero(name, static_cast<double>(fallback)));
  };
  config.score_cap = cap("attn_logit_softcapping", style.score_cap);
  config.logit_rule.cap = cap("final_logit_softcapping", style.logit_cap);
}

void read_experts(const GgufFile& file, const Reader& reader, ModelConfig& config) {
  const ExpertUse use = config.style.experts;
  const std::int64_t stated = file.find_int(reader.key("expert_count")).value_or(0);
  if (use == ExpertUse::None && stated > 0) reader.bad("expert_count", stated, "0: the architecture has no experts");
  if (use == ExpertUse::Always || stated != 0) {
    config.experts = reader.size("expert_count", kMaxExperts);
    config.experts_used = reader.size("expert_used_count", kMaxExperts);
    if (config.experts_used > config.experts) {
      reader.bad("expert_used_count", config.experts_used, concat("at most expert_count, ", config.experts));
    }
  }
  if (use != ExpertUse::Always) {
    config.ff = reader.layer_size("feed_forward_length", 1 << 22);
  } else if (file.find(reader.key("expert_feed_forward_length")) != nullptr) {
    config.ff = reader.layer_size("expert_feed_forward_length", 1 << 22);
  } else {
    config.ff = std::max(1, reader.layer_size("feed_forward_length", 1 << 22) / config.experts_used);
  }
}

// What stands in a file that is none of ours, for messages.
std::string found_architecture(const GgufFile& file) {
  const std::string_view name = file.get_string("general.architecture");
  return concat("found '", name, "'", name == "clip" ? ", what reads images or sound for a model (mmproj)" : "");
}

ModelConfig read_config(const GgufFile& file, const Architecture& style) {
  const Reader reader(file, std::string(style.name));
  ModelConfig config;
  config.style = style;
  config.name = file.find_string("general.name").value_or("");
  config.layers = reader.size("block_count", kMaxLayers);
  const std::int64_t nextn = file.find_int(reader.key("nextn_predict_layers")).value_or(0);
  if (nextn < 0 || nextn >= config.layers) {
    reader.bad("nextn_predict_layers", nextn, concat("0 to ", config.layers - 1, ": block_count counts them, too"));
  }
  config.nextn = static_cast<int>(nextn);
  config.layers -= config.nextn;
  config.dim = reader.size("embedding_length", 1 << 20);
  config.context = config.context_limit = reader.size("context_length", kMaxContext);
  config.heads = reader.layer_size("attention.head_count", kMaxHeads);
  config.kv_heads = reader.layer_size("attention.head_count_kv", kMaxHeads, config.heads);
  config.epsilon = static_cast<float>(reader.positive("attention.layer_norm_rms_epsilon"));
  // A hybrid's heads are wider than their share of the model.
  config.head_dim = style.is_hybrid
                        ? reader.size("attention.key_length", 1 << 14)
                        : reader.size_or("attention.key_length", 1 << 14, std::max(1, config.dim / config.heads));
  const int value_dim = reader.size_or("attention.value_length", 1 << 14, config.head_dim);
  if (value_dim != config.head_dim) {
    reader.bad("attention.value_length", value_dim, concat("the same as attention.key_length, ", config.head_dim));
  }
  if (config.heads % config.kv_heads != 0) {
    reader.bad("attention.head_count_kv", config.kv_heads, concat("a divisor of attention.head_count, ", config.heads));
  }
  if (!file.find_bool(reader.key("attention.causal")).value_or(true)) {
    reader.bad("attention.causal", "false", "true: models that look ahead write no text");
  }
  read_experts(file, reader, config);
  read_scales(file, reader, config);
  read_ropes(file, reader, config);
  read_windows(file, reader, config);
  read_delta(file, reader, config);
  return config;
}

}  // namespace

bool is_causal(const GgufFile& file) { return find_architecture(file.get_string("general.architecture")) != nullptr; }

ModelConfig read_causal_config(const GgufFile& file) {
  const Architecture* style = find_architecture(file.get_string("general.architecture"));
  if (style != nullptr) return read_config(file, *style);
  fail(file.path().string(), ": key 'general.architecture': ", found_architecture(file),
       ", expected a target model of ", architecture_names());
}

ModelConfig read_mtp_config(const GgufFile& file) {
  ModelConfig config = read_causal_config(file);
  const Reader reader(file, std::string(config.style.name));
  if (config.nextn != 1) {
    reader.bad("nextn_predict_layers", config.nextn, "1: a drafter is one nextn block, which is run again and again");
  }
  const std::string projection = concat("blk.", config.layers, ".nextn.eh_proj.weight");
  if (file.find_tensor(projection) == nullptr) {
    fail(file.path().string(), ": tensor '", projection, "' is missing: key '", reader.key("nextn_predict_layers"),
         "' promises a nextn block, expected its tensors");
  }
  config.mtp_block = config.layers;
  config.layers = 1;
  config.nextn = 0;
  config.is_recurrent.clear();
  config.is_windowed.clear();
  config.is_unrotated.clear();
  config.delta = {};
  return config;
}

ModelConfig read_eagle2_config(const GgufFile& file) {
  if (file.get_string("general.architecture") != "eagle2") {
    fail(file.path().string(), ": key 'general.architecture': ", found_architecture(file),
         ", expected a drafter: 'eagle2' or 'eagle3', or a language model: ", architecture_names());
  }
  ModelConfig config = read_config(file, kEagle2);
  const Reader reader(file, "eagle2");
  config.target_dim = reader.size_or("target_hidden_size", 1 << 20, config.dim);
  config.vocab = reader.size("vocab_size", 1 << 30);
  return config;
}

ModelConfig read_eagle3_config(const GgufFile& file) {
  ModelConfig config = read_config(file, kEagle3);
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
