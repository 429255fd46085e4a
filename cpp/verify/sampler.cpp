// Checking how tokens are to be chosen, and bringing it to the device.
#include "verify/sampler.h"

#include <cmath>

#include "base/error.h"

namespace frspec {
namespace {

void check_option(const char* name, float value, bool good, const char* expected) {
  if (!std::isfinite(value) || !good) fail(name, ": found ", value, ", expected ", expected);
}

template <class T>
Buffer to_device(Backend& backend, const std::vector<T>& values) {
  if (values.empty()) return {};
  Buffer buffer = backend.allocate(values.size() * sizeof(T));
  backend.upload(buffer.as<void>(), values.data(), values.size() * sizeof(T));
  return buffer;
}

}  // namespace

void check_sampling(const SamplingOptions& o) {
  check_option("temperature", o.temperature, o.temperature >= 0.0f, "a number of at least 0");
  check_option("dynatemp_range", o.dynatemp_range, o.dynatemp_range >= 0.0f, "a number of at least 0");
  check_option("dynatemp_exponent", o.dynatemp_exponent, o.dynatemp_exponent > 0.0f, "a number above 0");
  if (o.top_k < -1) fail("top_k: found ", o.top_k, ", expected 1 or more, or 0 for all tokens");
  check_option("top_p", o.top_p, o.top_p > 0.0f && o.top_p <= 1.0f, "a number above 0, at most 1");
  check_option("min_p", o.min_p, o.min_p >= 0.0f && o.min_p <= 1.0f, "a number from 0 to 1");
  check_option("typical_p", o.typical_p, o.typical_p > 0.0f && o.typical_p <= 1.0f, "a number above 0, at most 1");
  check_option("repeat_penalty", o.repeat_penalty, o.repeat_penalty > 0.0f, "a number above 0 (1: none)");
  check_option("frequency_penalty", o.frequency_penalty, true, "a number");
  check_option("presence_penalty", o.presence_penalty, true, "a number");
  if (o.repeat_last_n < -1) {
    fail("repeat_last_n: found ", o.repeat_last_n,
         ", expected 1 or more, 0 for no penalties, or -1 for the whole text");
  }
  for (const auto& [id, bias] : o.logit_bias) {
    if (std::isnan(bias) || (std::isinf(bias) && bias > 0.0f)) {
      fail("logit_bias: token ", id, ": found ", bias, ", expected a number, or -infinity to forbid the token");
    }
  }
}

Sampler::Sampler(Backend& backend, const SamplingOptions& options, int vocab, const std::int32_t* history, int context,
                 std::span<const TokenId> held, std::int64_t held_until)
    : draw_{options.temperature, options.seed} {
  check_sampling(options);
  std::vector<std::int32_t> ids;
  std::vector<float> bias;
  for (const auto& [id, value] : options.logit_bias) {
    if (id < 0 || id >= vocab) fail("logit_bias: found token id ", id, ", expected 0 to ", vocab - 1);
    ids.push_back(id);
    bias.push_back(value);
  }
  bias_ids_ = to_device(backend, ids);
  bias_ = to_device(backend, bias);
  held_ids_ = to_device(backend, std::vector<std::int32_t>(held.begin(), held.end()));
  chain_ = SamplerChain{
      .biased = static_cast<int>(ids.size()),
      .bias_ids = bias_ids_.as<std::int32_t>(),
      .bias = bias_.as<float>(),
      .held = held_until > 0 ? static_cast<int>(held.size()) : 0,
      .held_ids = held_ids_.as<std::int32_t>(),
      .held_until = held_until,
      .last_n = options.repeat_last_n < 0 ? context : options.repeat_last_n,
      .repeat = options.repeat_penalty,
      .frequency = options.frequency_penalty,
      .presence = options.presence_penalty,
      .history = history,
      .top_k = options.top_k > 0 && options.top_k < vocab ? options.top_k : 0,
      .typical_p = options.typical_p,
      .top_p = options.top_p,
      .min_p = options.min_p,
      .temperature = options.temperature,
      .dynatemp_range = options.dynatemp_range,
      .dynatemp_exponent = options.dynatemp_exponent,
  };
}

}  // namespace frspec
