// CPU backend: measuring what the machine can do.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr int kRepeats = 9;  // the median counts, as it does for what is compared

double median_seconds(const std::function<void()>& work) {
  std::array<double, kRepeats> times;
  for (double& time : times) {
    const auto start = std::chrono::steady_clock::now();
    work();
    time = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(times.begin(), times.end());
  return times[kRepeats / 2];
}

}  // namespace

Arithmetic CpuBackend::arithmetic(DType type) const { return static_cast<Arithmetic>(kernels_.form(type)); }

Ceilings CpuBackend::measure_ceilings(std::span<const Weight* const> weights) {
  Ceilings result;
  const auto threads = static_cast<std::int64_t>(pool_.size());
  std::atomic<std::int32_t> digest{0};
  std::int64_t bytes = 0;
  // As a pass does: weight after weight, each shared out by pairs of panels.
  const double seconds = median_seconds([&] {
    bytes = 0;
    for (const Weight* weight : weights) {
      const auto& packed = static_cast<const CpuWeight&>(*weight);
      pool_.parallel_for(packed.panels(), kPair, [&](std::int64_t begin, std::int64_t end, int) {
        const std::int64_t size = (end - begin) * packed.panel_bytes();
        digest.fetch_or(kernels_.read(packed.panel(begin), size), std::memory_order_relaxed);
      });
      bytes += packed.panels() * packed.panel_bytes();
    }
  });
  result.bytes_per_second = static_cast<double>(bytes) / seconds;
  for (const Form form : {Form::Int8, Form::Bf16, Form::F32}) {
    constexpr std::int64_t kRounds = 1000000;
    double macs = 0.0;  // of the caller's share; the others do as much
    const double burning = median_seconds([&] {
      pool_.parallel_for(threads, 1, [&](std::int64_t, std::int64_t, int worker) {
        const double done = kernels_.burn(form, kRounds);
        if (worker == 0) macs = done;
      });
    });
    result.macs_per_second[static_cast<int>(form)] = macs * static_cast<double>(threads) / burning;
  }
  return result;
}

}  // namespace frspec::cpu
