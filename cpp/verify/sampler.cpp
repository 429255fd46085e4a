// Checking how tokens are to be chosen.
#include "verify/sampler.h"

#include <cmath>

#include "base/error.h"

namespace frspec {

Sampling make_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0.0f) || !std::isfinite(options.temperature)) {
    fail("temperature: found ", options.temperature, ", expected a number of at least 0");
  }
  return Sampling{options.temperature, options.seed};
}

}  // namespace frspec
