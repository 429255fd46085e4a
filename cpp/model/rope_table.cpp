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
  const double low = std::max(0.0, std::floor(correction_dim(config, config.beta_fast)));
  const double high = std::min(config.dims - 1.0, std::ceil(correction_dim(config, config.beta_slow)));
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
  const double magnitude = grows ? 1.0 + 0.1 * std::log(config.factor) : 1.0;
  return static_cast<float>(magnitude * config.attention_factor);
}

RopeTable::RopeTable(Backend& backend, const RopeConfig& config, std::span<const float> factors, int positions) {
  const std::vector<float> frequencies = rope_frequencies(config, factors);
  const float magnitude = rope_magnitude(config);
  const std::size_t half = frequencies.size();
  const std::size_t bytes = half * static_cast<std::size_t>(positions) * sizeof(float);
  cos_ = backend.allocate(bytes);
  sin_ = backend.allocate(bytes);
  std::vector<float> cos(half), sin(half);
  for (std::size_t p = 0; p < static_cast<std::size_t>(positions); ++p) {
    for (std::size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies[i];
      cos[i] = std::cos(angle) * magnitude;
      sin[i] = std::sin(angle) * magnitude;
    }
    backend.upload(cos_.as<float>() + p * half, cos.data(), half * sizeof(float));
    backend.upload(sin_.as<float>() + p * half, sin.data(), half * sizeof(float));
  }
  view_ = Rope{cos_.as<float>(), sin_.as<float>(), config.dims, positions, config.interleaved};
}

}  // namespace frspec
