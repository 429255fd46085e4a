// Random numbers that are a pure function of (seed, position, token): whoever asks, in whatever order, on whatever
// device, gets the same number. That is what makes speculative sampling equal to plain sampling (contract 2).
//
// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11), then Gumbel noise by
// -log(-log u). Only IEEE additions, multiplications and divisions are used, unfused, so the bits are the same
// everywhere. Functions are constexpr because kernels call them, too.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace frspec {

using PhiloxBlock = std::array<std::uint32_t, 4>;

constexpr PhiloxBlock philox(PhiloxBlock counter, std::uint64_t seed) {
  std::uint32_t key0 = static_cast<std::uint32_t>(seed);
  std::uint32_t key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// Natural logarithm of a positive normal number (Cephes logf, within 1 ulp or so): libm's differs between systems.
constexpr float portable_log(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  int exponent = static_cast<int>(bits >> 23) - 126;
  float m = std::bit_cast<float>((bits & 0x007FFFFFu) | 0x3F000000u);  // [0.5, 1)
  if (m < 0.70710678f) {
    m = m + m - 1.0f;
    --exponent;
  } else {
    m = m - 1.0f;
  }
  const float z = m * m;
  float y = 7.0376836292e-2f;
  for (const float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                        2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f}) {
    y = y * m + c;
  }
  y = y * m * z;
  const float e = static_cast<float>(exponent);
  y = y - 2.12194440e-4f * e;
  y = y - 0.5f * z;
  return m + y + 0.693359375f * e;
}

// Standard Gumbel noise from 32 random bits. The bits stand for w = 1 - u, so that the large noise values, which
// decide, have the full relative precision of a float instead of ending at a coarse grid.
constexpr float gumbel_from_bits(std::uint32_t bits) {
  float w = (static_cast<float>(bits) + 0.5f) * 2.3283064365386963e-10f;  // (0, 1], times 2^-32
  if (w > 0.99999994f) w = 0.99999994f;
  const float u = 1.0f - w;
  // -log(1 - w), exact for small w: log(u) w / (1 - u) corrects the rounding of u.
  const float exponential = u == 1.0f ? w : -portable_log(u) * (w / (1.0f - u));
  return -portable_log(exponential);
}

// The noise of token `token` at absolute position `position` (the position the token would take). Streams other than 0
// are independent of it and of each other.
constexpr float gumbel(std::uint64_t seed, std::uint64_t position, std::uint32_t token, std::uint32_t stream = 0) {
  const PhiloxBlock block = philox(
      {token >> 2, static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), stream}, seed);
  return gumbel_from_bits(block[token & 3]);
}

// A number in (0, 1).
constexpr double uniform(std::uint64_t seed, std::uint64_t position, std::uint32_t stream) {
  const PhiloxBlock block =
      philox({0, static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), stream}, seed);
  return (static_cast<double>(block[0]) + 0.5) * 2.3283064365386963e-10;
}

}  // namespace frspec
