// Gated delta layers (backend.h's run_delta). Lanes are channels or values, and nothing is summed across lanes but for
// norms: the rule gives the same bits for any width of vector. Part of kernels.inl.

namespace {

void convolve(float* out, const float* const* rows, const float* weights, std::int64_t stride, int taps,
              std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const std::int64_t left = n - i;
    Floats total = {};
    for (int tap = 0; tap < taps; ++tap) {
      total = multiply_add(load_up_to(rows[tap] + i, left), load_up_to(weights + tap * stride + i, left), total);
    }
    const Floats value = total / (exponential(-total) + 1.0f);
    if (left >= kLanes) {
      store(out + i, value);
    } else {
      store_part(out + i, value, left);
    }
  }
}

void l2_norm(float* out, const float* x, std::int64_t n, float epsilon) {
  const float scale = 1.0f / __builtin_sqrtf(dot(x, x, n) + epsilon);
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * scale;
}

// ln(1 + e^x). The quotient takes out what 1 + e lost of e.
inline Floats softplus(Floats x) {
  const Floats e = exponential(x), sum = e + 1.0f;
  const Floats exact = natural_log(sum) * (e / (sum - 1.0f));
  return x > splat(20.0f) ? x : (sum == 1.0f ? e : exact);
}

void delta_gates(float* decay, float* strength, const float* decay_logits, const float* strength_logits,
                 const float* rate, const float* bias, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const std::int64_t left = n - i;
    const Floats step = softplus(load_up_to(decay_logits + i, left) + load_up_to(bias + i, left));
    const Floats kept = exponential(load_up_to(rate + i, left) * step);
    const Floats taken = splat(1.0f) / (exponential(-load_up_to(strength_logits + i, left)) + 1.0f);
    const std::int64_t here = left < kLanes ? left : kLanes;
    store_part(decay + i, kept, here);
    store_part(strength + i, taken, here);
  }
}

template <bool kKeeps>
FRSPEC_INLINE void delta_rule(const DeltaStep& s) {
  constexpr int kVectors = kDeltaColumns / kLanes;
  Floats even[kVectors] = {}, odd[kVectors] = {};
  for (std::int64_t i = 0; i < s.head_dim; i += 2) {
    const Floats first = splat(s.key[i]), second = splat(s.key[i + 1]);
    const float* row = s.from + i * kDeltaColumns;
    for (int v = 0; v < kVectors; ++v) {
      even[v] = multiply_add(load(row + v * kLanes), first, even[v]);
      odd[v] = multiply_add(load(row + kDeltaColumns + v * kLanes), second, odd[v]);
    }
  }
  const Floats decay = splat(s.decay);
  Floats delta[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    delta[v] = multiply_add(-(even[v] + odd[v]), decay, load(s.value + v * kLanes)) * s.strength;
    if (s.delta != nullptr) store(s.delta + v * kLanes, delta[v]);
    even[v] = odd[v] = Floats{};
  }
  for (std::int64_t i = 0; i < s.head_dim; i += 2) {
    const Floats key0 = splat(s.key[i]), key1 = splat(s.key[i + 1]);
    const Floats query0 = splat(s.query[i]), query1 = splat(s.query[i + 1]);
    const float* row = s.from + i * kDeltaColumns;
    float* next = s.to + i * kDeltaColumns;
    for (int v = 0; v < kVectors; ++v) {
      const Floats a = multiply_add(key0, delta[v], decay * load(row + v * kLanes));
      const Floats b = multiply_add(key1, delta[v], decay * load(row + kDeltaColumns + v * kLanes));
      if constexpr (kKeeps) {
        store(next + v * kLanes, a);
        store(next + kDeltaColumns + v * kLanes, b);
      }
      even[v] = multiply_add(a, query0, even[v]);
      odd[v] = multiply_add(b, query1, odd[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) store(s.out + v * kLanes, (even[v] + odd[v]) * s.scale);
}

void delta_step(const DeltaStep& step) {
  if (step.to != nullptr) {
    delta_rule<true>(step);
  } else {
    delta_rule<false>(step);
  }
}

void delta_keep(float* matrix, const float* key, const float* delta, float decay, std::int64_t head_dim) {
  constexpr int kVectors = kDeltaColumns / kLanes;
  Floats deltas[kVectors];
  for (int v = 0; v < kVectors; ++v) deltas[v] = load(delta + v * kLanes);
  for (std::int64_t i = 0; i < head_dim; ++i) {
    float* row = matrix + i * kDeltaColumns;
    for (int v = 0; v < kVectors; ++v) {
      store(row + v * kLanes, multiply_add(splat(key[i]), deltas[v], splat(decay) * load(row + v * kLanes)));
    }
  }
}

void gated_norm(float* out, const float* x, const float* weight, const float* gate, std::int64_t n, float epsilon) {
  rms_norm(out, x, weight, n, epsilon);
  activate<Silu>(out, gate, out, n);
}

}  // namespace
