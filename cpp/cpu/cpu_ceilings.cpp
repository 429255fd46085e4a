// CPU backend: measuring what the machine can do.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr std::int64_t kReadBytes = std::int64_t{1} << 30;  // far more than caches hold
constexpr int kRepeats = 9;                                 // the median counts, as it does for what is compared

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

Ceilings CpuBackend::measure_ceilings() {
  Ceilings result;
  const auto threads = static_cast<std::int64_t>(pool_.size());
  const Buffer memory = allocate(static_cast<std::size_t>(kReadBytes));
  auto* bytes = memory.as<std::byte>();
  constexpr std::int64_t kPiece = std::int64_t{1} << 18;
  const std::int64_t pieces = kReadBytes / kPiece;
  pool_.parallel_for(pieces, 1, [&](std::int64_t begin, std::int64_t end, int) {
    std::fill(bytes + begin * kPiece, bytes + end * kPiece, std::byte{1});  // pages exist once they are written
  });
  std::atomic<std::int32_t> digest{0};
  result.bytes_per_second = static_cast<double>(kReadBytes) / median_seconds([&] {
    pool_.parallel_for(pieces, 1, [&](std::int64_t begin, std::int64_t end, int) {
      digest.fetch_or(kernels_.read(bytes + begin * kPiece, (end - begin) * kPiece), std::memory_order_relaxed);
    });
  });
  for (const Form form : {Form::Int8, Form::Bf16, Form::F32}) {
    constexpr std::int64_t kRounds = 1000000;
    double macs = 0.0;  // of the caller's share; the others do as much
    const double seconds = median_seconds([&] {
      pool_.parallel_for(threads, 1, [&](std::int64_t, std::int64_t, int worker) {
        const double done = kernels_.burn(form, kRounds);
        if (worker == 0) macs = done;
      });
    });
    result.macs_per_second[static_cast<int>(form)] = macs * static_cast<double>(threads) / seconds;
  }
  return result;
}

}  // namespace frspec::cpu
