// Rotary embedding (Su et al., 2104.09864), linear scaling, YaRN (Peng et al., 2309.00071) and Llama 3's factors.
#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace frspec {
namespace {

// The pair whose wavelength makes `rotations` turns within the original context (YaRN's correction dimension).
double correction_dim(const RopeConfig& config, double rotations) {
  return config.dims * std::log(config.original_context / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(config.base));
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& config, std::span<const float> factors) {
  std::vector<float> frequencies(static_cast<std::size_t>(config.dims / 2));
  double low = correction_dim(config, config.beta_fast), high = correction_dim(config, config.beta_slow);
  if (config.truncated) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(0.0, low);
  high = std::min(config.dims - 1.0, high);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(config.base, -2.0 * static_cast<double>(i) / config.dims);
    if (!factors.empty()) frequency /= factors[i];
    if (config.scaling == RopeConfig::Scaling::Linear) frequency /= config.factor;
    if (config.scaling == RopeConfig::Scaling::Yarn) {
      // Fast pairs keep their frequency, slow ones are interpolated, a ramp lies between.
      const double ramp = std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0.0, 1.0);
      const double kept = (1.0 - ramp) * config.extrapolation;
      frequency = frequency / config.factor * (1.0 - kept) + frequency * kept;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

float rope_magnitude(const RopeConfig& config) {
  const bool grows = config.scaling == RopeConfig::Scaling::Yarn && config.factor > 1.0;
  const auto of = [&](double multiplier) { return 1.0 + 0.1 * multiplier * std::log(config.factor); };
  const double magnitude = grows ? of(1.0) / of(config.log_multiplier) : 1.0;
  return static_cast<float>(magnitude * config.attention_factor);
}

RopeTable::RopeTable(Device& device, const RopeConfig& config, std::span<const float> factors, int positions) {
  const std::vector<float> frequencies = rope_frequencies(config, factors);
  const float magnitude = rope_magnitude(config);
  const std::size_t half = frequencies.size();
  const std::size_t bytes = half * static_cast<std::size_t>(positions) * sizeof(float);
  cos_ = device.allocate(bytes);
  sin_ = device.allocate(bytes);
  std::vector<float> cos(half), sin(half);
  for (std::size_t p = 0; p < static_cast<std::size_t>(positions); ++p) {
    for (std::size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies[i];
      cos[i] = std::cos(angle) * magnitude;
      sin[i] = std::sin(angle) * magnitude;
    }
    device.upload(cos_.as<float>() + p * half, cos.data(), half * sizeof(float));
    device.upload(sin_.as<float>() + p * half, sin.data(), half * sizeof(float));
  }
  view_ = Rope{cos_.as<float>(), sin_.as<float>(), config.dims, positions, config.interleaved};
  if (config.growth == 0.0) return;
  std::vector<float> scales(static_cast<std::size_t>(positions));
  for (std::size_t p = 0; p < scales.size(); ++p) {
    const double times = std::floor(static_cast<double>(p) / config.original_context);
    scales[p] = static_cast<float>(1.0 + config.growth * std::log1p(times));
  }
  query_scale_ = device.allocate(scales.size() * sizeof(float));
  device.upload(query_scale_.as<void>(), scales.data(), scales.size() * sizeof(float));
  view_.query_scale = query_scale_.as<float>();
}

LayerRopes::LayerRopes(Device& device, const ModelConfig& config, std::span<const float> factors, int positions)
    : config_(config), global_(device, config.rope, factors, positions) {
  if (!config.is_windowed.empty() && config.local_rope) {
    local_.emplace(device, *config.local_rope, std::span<const float>(), positions);
  }
}

const Rope& LayerRopes::of(int layer) const {
  if (config_.unrotated(layer)) return none_;
  return local_ && config_.windowed(layer) ? local_->view() : global_.view();
}

}  // namespace frspec
