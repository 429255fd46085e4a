// CPU backend: measuring what the machine can do.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Arithmetic CpuBackend::arithmetic(DType type) const { return static_cast<Arithmetic>(kernels_.form(type)); }

double CpuBackend::measure_reading(std::span<const Weight* const> weights) {
  std::atomic<std::int32_t> digest{0};
  std::int64_t bytes = 0;
  // As a pass does: weight after weight, each shared out by pairs of panels.
  const double seconds = seconds_of([&] {
    for (const Weight* weight : weights) {
      const auto& packed = static_cast<const CpuWeight&>(*weight);
      pool_.parallel_for(packed.panels(), kPair, [&](std::int64_t begin, std::int64_t end, int) {
        const std::int64_t size = (end - begin) * packed.panel_bytes();
        digest.fetch_or(kernels_.read(packed.pair(begin), size), std::memory_order_relaxed);
      });
      bytes += packed.panels() * packed.panel_bytes();
    }
  });
  return static_cast<double>(bytes) / seconds;
}

void CpuBackend::measure_arithmetic(double* macs_per_second) {
  constexpr std::int64_t kRounds = 1000000;
  constexpr int kRepeats = 9;  // the median counts, as it does for what is compared with it
  const auto threads = static_cast<std::int64_t>(pool_.size());
  macs_per_second[static_cast<int>(Arithmetic::F16)] = 0.0;
  for (const Form form : {Form::Int8, Form::Bf16, Form::F32}) {
    std::array<double, kRepeats> speeds;
    for (double& speed : speeds) {
      std::atomic<double> macs = 0.0;
      const double seconds = seconds_of([&] {
        pool_.parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end, int) {
          macs.fetch_add(kernels_.burn(form, (end - begin) * kRounds));
        });
      });
      speed = macs.load() / seconds;
    }
    std::sort(speeds.begin(), speeds.end());
    macs_per_second[static_cast<int>(form)] = speeds[kRepeats / 2];
  }
}

}  // namespace frspec::cpu
