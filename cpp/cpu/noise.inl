// Gumbel noise, many tokens at once: bit for bit what base/random.h defines (Philox-4x32-10, then -log(-log u) from
// unfused IEEE operations). Part of kernels.inl.

namespace {

using Counters = std::uint32_t __attribute__((vector_size(4 * kLanes)));

template <class To, class From>
inline To bits_as(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  __builtin_memcpy(&result, &v, sizeof result);
  return result;
}

// High and low words of v * factor.
struct Product {
  Counters high, low;
};
inline Product multiply_wide(Counters v, std::uint32_t factor) {
  const Quads all = bits_as<Quads>(v), low_words = Quads{} + 0xFFFFFFFFu;
  const Quads even = multiply_even(all, Quads{} + factor), odd = multiply_even(all >> 32, Quads{} + factor);
  return {bits_as<Counters>((even >> 32) | (odd & ~low_words)), bits_as<Counters>((even & low_words) | (odd << 32))};
}

// Four words for each counter (counter, position, 0).
inline void philox(Counters counter, std::uint64_t position, std::uint64_t seed, Counters* out) {
  Counters c0 = counter, c1 = Counters{} + static_cast<std::uint32_t>(position);
  Counters c2 = Counters{} + static_cast<std::uint32_t>(position >> 32), c3 = {};
  std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Product a = multiply_wide(c0, 0xD2511F53u), b = multiply_wide(c2, 0xCD9E8D57u);
    c0 = b.high ^ c1 ^ key0;
    c1 = b.low;
    c2 = a.high ^ c3 ^ key1;
    c3 = a.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

// base/random.h's portable_log.
inline Floats natural_log(Floats x) {
  const Ints bits = bits_as<Ints>(x);
  Ints exponent = (bits >> 23) - 126;  // positive numbers: no sign
  Floats m = bits_as<Floats>((bits & 0x007FFFFF) | 0x3F000000);
  const Ints is_small = m < 0.70710678f;
  exponent += is_small;  // -1 where true
  m = is_small ? m + m - 1.0f : m - 1.0f;
  const Floats z = m * m;
  Floats y = splat(7.0376836292e-2f);
  y = y * m + -1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m + -1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m + -1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m + -2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * z;
  const Floats e = __builtin_convertvector(exponent, Floats);
  y = y - 2.12194440e-4f * e;
  y = y - 0.5f * z;
  return m + y + 0.693359375f * e;
}

inline Floats gumbel_of(Counters bits) {
  Floats w = (__builtin_convertvector(bits, Floats) + 0.5f) * 2.3283064365386963e-10f;
  w = w > 0.99999994f ? splat(0.99999994f) : w;
  const Floats u = 1.0f - w;
  const Floats exact = -natural_log(u) * (w / (1.0f - u));
  return -natural_log(u == 1.0f ? w : exact);
}

void gumbel_run(float* out, std::uint32_t first, std::int64_t n, std::uint64_t position, std::uint64_t seed) {
  Counters lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<std::uint32_t>(i);
  for (std::int64_t i = 0; i < n; i += 4 * kLanes) {
    Counters bits[4];
    philox(lanes + (first + static_cast<std::uint32_t>(i)) / 4, position, seed, bits);
    float noise[4][kLanes];
    for (int word = 0; word < 4; ++word) store(noise[word], gumbel_of(bits[word]));
    const std::int64_t count = n - i < 4 * kLanes ? n - i : 4 * kLanes;
    for (std::int64_t k = 0; k < count; ++k) out[i + k] = noise[k % 4][k / 4];
  }
}

void gumbel_list(float* out, const std::int32_t* ids, std::int64_t n, std::uint64_t position, std::uint64_t seed) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const std::int64_t count = n - i < kLanes ? n - i : kLanes;
    Counters id = {};
    __builtin_memcpy(&id, ids + i, static_cast<std::size_t>(count) * sizeof(std::int32_t));
    Counters words[4];
    philox(id >> 2, position, seed, words);
    const Counters which = id & 3u;
    const Counters bits = which == 0u ? words[0] : which == 1u ? words[1] : which == 2u ? words[2] : words[3];
    store_part(out + i, gumbel_of(bits), count);
  }
}

void add_noise(float* out, const float* x, float temperature, const float* noise, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] / temperature + noise[i];
}

}  // namespace
