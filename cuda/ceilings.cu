// CUDA backend: measuring what the device can do.
//
// Memory access: `read_all` streams a weight, 16 bytes a lane, neighbours side by side, four loads in flight for each
// thread. `burn` touches no memory.
#include <algorithm>
#include <utility>

#include "cuda/cuda_backend.h"
#include "cuda/device/block.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/numbers.cuh"
#include "cuda/prepare.h"
#include "cuda/weight.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;  // independent sums of a warp
constexpr int kFirstPoint = 0, kLastPoint = 1;

__global__ void __launch_bounds__(kThreads)
    read_all(const std::byte* from, std::int64_t pieces, std::uint32_t* digest) {
  constexpr int kLoads = 4;
  const std::int64_t all = std::int64_t{grid_x()} * threads(), mine = std::int64_t{block_x()} * threads() + thread();
  std::uint32_t bits = 0;
  for (std::int64_t first = mine; first < pieces; first += kLoads * all) {
    Words4 words[kLoads] = {};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (first + i * all < pieces) words[i] = load_as<Words4>(from + 16 * (first + i * all));
    }
    for (const Words4& four : words) bits |= four.word[0] ^ four.word[1] ^ four.word[2] ^ four.word[3];
  }
  if (bits == 0x12345678u) atomic_add(digest, 1u);  // so that the loads are needed
}

template <Arithmetic kKind>
__global__ void __launch_bounds__(kThreads) burn(int rounds, float* out) {
  float sums[kChains][4] = {};
  std::uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = static_cast<std::uint32_t>(thread());
  for (int i = 0; i < 2; ++i) b[i] = static_cast<std::uint32_t>(block_x());
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) {
      if constexpr (kKind == Arithmetic::F16) {
        mma_f16(sums[i], a, b);
      } else if constexpr (kKind == Arithmetic::Bf16) {
        mma_bf16(sums[i], a, b);
      } else {
        for (float& sum : sums[i]) sum = fma(sum, 0.5f, 1.0f);
      }
    }
  }
  float total = 0.0f;
  for (const auto& sum : sums) total += sum[0] + sum[1] + sum[2] + sum[3];
  if (total == 0.12345f) *out = total;
}

// Multiply-adds of a warp in a round.
constexpr double macs_of(Arithmetic kind) { return kChains * (kind == Arithmetic::F32 ? 4.0 * kWarp : 16.0 * 8 * 16); }

}  // namespace

Arithmetic CudaBackend::arithmetic(DType type) const {
  switch (form_of(type)) {
    case Form::F32:
      return Arithmetic::F32;
    case Form::Bf16:
      return Arithmetic::Bf16;
    case Form::F16:
      break;
  }
  return Arithmetic::F16;
}

double CudaBackend::measure_reading(std::span<const Weight* const> weights) {
  const int blocks = 8 * device_->runtime->device().multiprocessors;
  auto* digest = measured_.take<std::uint32_t>(1);
  std::int64_t bytes = 0;
  const auto read = [&] {
    bytes = 0;
    device_->commands.note_time(kFirstPoint);
    for (const Weight* each : weights) {
      const auto& weight = static_cast<const CudaWeight&>(*each);
      const auto pieces = static_cast<std::int64_t>(weight.memory_bytes() / 16);
      if (pieces == 0) continue;
      const auto needed = static_cast<int>(std::min<std::int64_t>(blocks, (pieces + kThreads - 1) / kThreads));
      launch("read_all", read_all, {needed}, kThreads, 0, weight.data(), pieces, digest);
      bytes += 16 * pieces;
    }
    device_->commands.note_time(kLastPoint);
    device_->commands.wait();
  };
  // At first the driver loads the kernel, then it makes a graph: neither is what is measured.
  if (!std::exchange(has_read_, true)) {
    read();
    read();
  }
  read();
  return static_cast<double>(bytes) / std::max(1e-9, device_->runtime->seconds_between(kFirstPoint, kLastPoint));
}

void CudaBackend::measure_arithmetic(double* macs_per_second) {
  constexpr double kEnough = 0.05;  // seconds that are worth looking at
  std::fill_n(macs_per_second, kArithmetics, 0.0);
  const int blocks = 4 * device_->runtime->device().multiprocessors;
  auto* out = measured_.take<float>(1);
  const auto measure = [&](Arithmetic kind, auto kernel) {
    double& speed = macs_per_second[static_cast<int>(kind)];
    for (int rounds = 1;; rounds *= 4) {
      device_->commands.note_time(kFirstPoint);
      launch("burn", kernel, {blocks}, kThreads, 0, rounds, out);
      device_->commands.note_time(kLastPoint);
      device_->commands.wait();
      const double seconds = std::max(1e-9, device_->runtime->seconds_between(kFirstPoint, kLastPoint));
      speed = macs_of(kind) * rounds * blocks * (kThreads / kWarp) / seconds;
      if (seconds >= kEnough || rounds >= (1 << 24)) return;
    }
  };
  measure(Arithmetic::F16, burn<Arithmetic::F16>);
  measure(Arithmetic::Bf16, burn<Arithmetic::Bf16>);
  measure(Arithmetic::F32, burn<Arithmetic::F32>);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
