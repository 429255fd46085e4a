// How the next token is chosen from logits: the same rule for plain and for speculative decoding (contract 2).
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace frspec {

struct SamplingOptions {
  float temperature = 0.0f;  // 0: the most probable token
  std::uint64_t seed = 0;
};

// Throws InvalidInput unless the temperature is a finite number of at least 0.
Sampling make_sampling(const SamplingOptions& options);

}  // namespace frspec
