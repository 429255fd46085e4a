// The angles of a rotary embedding, tabulated for every position.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "backend/device.h"
#include "model/config.h"

namespace frspec {

class RopeTable {
 public:
  // `factors`: divisors of the frequencies, (dims / 2) (Llama 3's rope_freqs.weight), or empty.
  RopeTable(Device& device, const RopeConfig& config, std::span<const float> factors, int positions);

  const Rope& view() const { return view_; }

 private:
  Buffer cos_, sin_;    // (positions, dims / 2)
  Buffer query_scale_;  // (positions) or empty
  Rope view_;
};

// Those of a model's layers: of layers that see everything, of those that see a window, and of those without.
class LayerRopes {
 public:
  // `factors`: of layers that see everything.
  LayerRopes(Device& device, const ModelConfig& config, std::span<const float> factors, int positions);

  const Rope& of(int layer) const;

 private:
  const ModelConfig& config_;
  RopeTable global_;
  std::optional<RopeTable> local_;
  Rope none_;
};

// Angle per position of each pair, (dims / 2), with the scaling of `config` applied.
std::vector<float> rope_frequencies(const RopeConfig& config, std::span<const float> factors);

// Factor on cos and sin: YaRN's (Peng et al., 2309.00071, section 3.4), and what the user or the file puts beside it.
float rope_magnitude(const RopeConfig& config);

}  // namespace frspec
