// Element-wise and row-wise kernels.

namespace {

void rms_norm(float* out, const float* x, const float* weight, std::int64_t n, float epsilon) {
  const float mean = dot(x, x, n) / static_cast<float>(n);
  const float scale = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

struct Silu {
  static Floats of(Floats gate, Floats up) { return gate / (exponential(-gate) + 1.0f) * up; }
};

// (1 + tanh(z)) / 2 is the sigmoid of 2 z.
struct Gelu {
  static Floats of(Floats gate, Floats up) {
    const Floats z = (gate * gate * gate * 0.044715f + gate) * 1.5957691216057308f;  // 2 sqrt(2 / pi)
    return gate / (exponential(-z) + 1.0f) * up;
  }
};

struct Sigmoid {
  static Floats of(Floats gate, Floats up) { return up / (exponential(-gate) + 1.0f); }
};

// Comparisons are such that NaN stays.
struct Clamped {
  static Floats of(Floats gate, Floats up) {
    gate = gate > splat(7.0f) ? splat(7.0f) : gate;
    up = up > splat(7.0f) ? splat(7.0f) : up;
    up = up < splat(-7.0f) ? splat(-7.0f) : up;
    return gate / (exponential(gate * -1.702f) + 1.0f) * (up + 1.0f);
  }
};

template <class Gate>
void activate(float* out, const float* gate, const float* up, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, Gate::of(load(gate + i), load(up + i)));
  if (i < n) store_part(out + i, Gate::of(load_part(gate + i, n - i), load_part(up + i, n - i)), n - i);
}

void add_scaled(float* x, const float* y, float scale, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, multiply_add(load(y + i), splat(scale), load(x + i)));
  if (i < n) {
    store_part(x + i, multiply_add(load_part(y + i, n - i), splat(scale), load_part(x + i, n - i)), n - i);
  }
}

// cap tanh(x / cap). What is not finite becomes NaN: an overflow must not look like a large number.
inline Floats soft_capped(Floats x, float cap) {
  const Floats tangent = splat(1.0f) - splat(2.0f) / (exponential(x * (2.0f / cap)) + 1.0f);
  return tangent * cap + (x - x);
}

void to_logits(float* x, std::int64_t n, float scale, float cap) {
  const auto of = [=](Floats value) FRSPEC_INLINED {
    value = value * scale;
    return cap > 0.0f ? soft_capped(value, cap) : value;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, of(load(x + i)));
  if (i < n) store_part(x + i, of(load_part(x + i, n - i)), n - i);
}

void to_half(std::uint16_t* out, const float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_half(out + i, load(x + i));
  if (i < n) {
    std::uint16_t part[kLanes];
    store_half(part, load_part(x + i, n - i));
    __builtin_memcpy(out + i, part, static_cast<std::size_t>(n - i) * sizeof(std::uint16_t));
  }
}

float maximum(const float* x, std::int64_t n) {
  Floats best = splat(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats value = load(x + i);
    best = value > best ? value : best;
  }
  float top = largest(best);
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

float sum_exp(const float* x, std::int64_t n, float subtract) {
  // Vocabularies are long: the sums of short stretches are added in double precision.
  constexpr std::int64_t kStretch = 1024;
  double total = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kStretch) {
    const std::int64_t end = begin + kStretch < n ? begin + kStretch : n;
    Floats stretch = {};
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) stretch += exponential(load(x + i) - subtract);
    if (i < end) {
      const Floats last = exponential(load_part(x + i, end - i) - subtract);
      for (int lane = 0; lane < end - i; ++lane) total += static_cast<double>(last[lane]);
    }
    total += static_cast<double>(sum(stretch));
  }
  return static_cast<float>(total);
}

}  // namespace
