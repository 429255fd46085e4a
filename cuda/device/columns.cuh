// One block's chunk of a row of logits, sixteen columns in the registers of each thread; and its noise.
#pragma once

#include "base/random.h"
#include "cuda/choosing.h"
#include "cuda/device/cut.cuh"
#include "cuda/device/memory.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

inline constexpr float kMinusInfinity = -__builtin_huge_valf();

// Four logits of a row, of which the first `count` are there.
__device__ inline Floats4 load_logits(const float* at, std::int64_t count, bool aligned) {
  return load_four(at, count, aligned, kMinusInfinity);
}

// e^x for x <= 0 as the CPU backend has it: never 0, and that much for what is no number.
__device__ inline float exp_of_difference(float x) { return std::exp(x > -87.0f ? x : -87.0f); }

// base/random.h's gumbel, without an array that is indexed at run time.
__device__ inline float gumbel_of(std::uint64_t seed, std::uint64_t position, std::uint32_t token) {
  const PhiloxBlock block =
      philox({token >> 2, static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32), 0}, seed);
  const std::uint32_t low = (token & 1) == 0 ? block[0] : block[1], high = (token & 1) == 0 ? block[2] : block[3];
  return gumbel_from_bits((token & 2) == 0 ? low : high);
}

struct Chunk {
  float x[kColumnsPerThread];
  std::int64_t first = 0, count = 0;  // columns of the chunk

  // Of the chunk's columns, which this thread's i-th is: neighbours in fours, which neighbouring threads have.
  __device__ int column(int i) const { return 4 * (i / 4 * threads() + thread()) + i % 4; }

  __device__ void load(const Tensor& logits, std::int64_t row, int chunk) {
    const int width = threads() * kColumnsPerThread;
    first = std::int64_t{chunk} * width;
    count = logits.cols - first < width ? logits.cols - first : width;
    const float* from = logits.row(row) + first;
    const bool aligned = is_aligned_16(from);
#pragma unroll
    for (int i = 0; i < kColumnsPerThread; i += 4) {
      const Floats4 four = load_logits(from + column(i), count - column(i), aligned);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[i + j] = four.value[j];
    }
  }

  // Calls f(i, column) for this thread's columns.
  template <class F>
  __device__ void for_each(F&& f) const {
#pragma unroll
    for (int i = 0; i < kColumnsPerThread; ++i) {
      if (column(i) < count) f(i, static_cast<std::int32_t>(first + column(i)));
    }
  }

  // The largest of this thread's numbers.
  __device__ float maximum() const {
    float most = kMinusInfinity;
#pragma unroll
    for (int i = 0; i < kColumnsPerThread; ++i) most = x[i] > most ? x[i] : most;
    return most;
  }

  // Calls f(i, column, value) with what each of this thread's columns is worth.
  template <class F>
  __device__ void for_each_noisy(const Columns& columns, std::int64_t row, const Noise& noise, F&& f) const {
    const std::uint64_t position = noise.position(row);
    const bool are_tokens = columns.ids == nullptr && columns.listed == nullptr && noise.token_of_id == nullptr;
#pragma unroll
    for (int i = 0; i < kColumnsPerThread; i += 4) {
      if (column(i) >= count) break;
      const auto four = static_cast<std::int32_t>(first + column(i));
      std::uint32_t bits[4] = {};
      if (are_tokens) {  // four neighbours share a block of random bits
        const PhiloxBlock block = philox({static_cast<std::uint32_t>(four) >> 2, static_cast<std::uint32_t>(position),
                                          static_cast<std::uint32_t>(position >> 32), 0},
                                         noise.seed);
#pragma unroll
        for (int j = 0; j < 4; ++j) bits[j] = block[static_cast<std::size_t>(j)];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column(i + j) >= count) break;
        float gumbel_noise = 0.0f;
        if (are_tokens) {
          gumbel_noise = gumbel_from_bits(bits[j]);
        } else {
          std::int32_t token = columns.token(row, four + j);
          if (noise.token_of_id != nullptr) token = noise.token_of_id[token];
          gumbel_noise = gumbel_of(noise.seed, position, static_cast<std::uint32_t>(token));
        }
        f(i + j, four + j, x[i + j] / noise.temperature + gumbel_noise);
      }
    }
  }
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
