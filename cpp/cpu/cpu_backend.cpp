// CPU backend: memory and weights.
#include "cpu/cpu_backend.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "backend/registry.h"
#include "base/error.h"

namespace frspec {

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(cpu::choose_kernels(), options.threads);
}

namespace cpu {
namespace {

constexpr std::size_t kAlignment = 64;

bool is_loadable(DType type) {
  switch (type) {
    case DType::F32:
    case DType::F16:
    case DType::BF16:
    case DType::Q8_0:
    case DType::Q4_0:
      return true;
    default:
      return false;
  }
}

}  // namespace

CpuWeight::CpuWeight(const WeightSource& source)
    : Weight(source.type, source.rows, source.cols),
      owner_(source.owner),
      data_(source.data),
      row_bytes_(static_cast<std::int64_t>(frspec::row_bytes(source.type, static_cast<std::size_t>(source.cols)))) {}

CpuWeight::CpuWeight(DType type, std::int64_t rows, std::int64_t cols, std::vector<std::byte> bytes)
    : Weight(type, rows, cols),
      owned_(std::move(bytes)),
      data_(owned_.data()),
      row_bytes_(static_cast<std::int64_t>(frspec::row_bytes(type, static_cast<std::size_t>(cols)))) {}

CpuBackend::CpuBackend(const Kernels& kernels, int threads)
    : kernels_(kernels),
      pool_(threads),
      scratch_(static_cast<std::size_t>(pool_.size())),
      allocated_(std::make_shared<std::atomic<std::size_t>>(0)) {}

std::string CpuBackend::description() const {
  return concat("cpu (", kernels_.name, ", ", pool_.size(), pool_.size() == 1 ? " thread)" : " threads)");
}

Buffer CpuBackend::allocate(std::size_t bytes) {
  // Fresh pages cost nothing until they are touched, so an absurd size must fail here, by what the machine has.
  const auto physical =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t before = allocated_->load();
  void* memory = bytes <= physical && before <= physical - bytes ? std::calloc(bytes + kAlignment, 1) : nullptr;
  if (memory == nullptr) {
    throw OutOfMemory(
        concat("cannot allocate ", bytes, " bytes beside ", before, " in use: this machine has ", physical));
  }
  allocated_->fetch_add(bytes);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  void* aligned = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  return Buffer(aligned, bytes, [memory, bytes, allocated = allocated_](void*) {
    std::free(memory);
    allocated->fetch_sub(bytes);
  });
}

void CpuBackend::upload(void* to, const void* from_host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from_host, bytes);
}

void CpuBackend::download(void* to_host, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to_host, from, bytes);
}

float* CpuBackend::scratch(int worker, std::size_t floats) {
  std::vector<float>& memory = scratch_[static_cast<std::size_t>(worker)];
  if (memory.size() < floats) memory.resize(floats);
  return memory.data();
}

void CpuBackend::check_source(const WeightSource& source) {
  if (!is_loadable(source.type)) {
    fail(source.file, ": tensor '", source.name, "' has type ", dtype_name(source.type),
         ", expected one of F32, F16, BF16, Q8_0, Q4_0");
  }
}

std::unique_ptr<Weight> CpuBackend::load(const WeightSource& source) {
  check_source(source);
  const auto bytes = static_cast<std::int64_t>(row_bytes(source.type, static_cast<std::size_t>(source.cols)));
  pool_.parallel_for(source.rows, 256, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      if (!kernels_.all_finite(source.type, source.data + r * bytes, source.cols)) {
        fail(source.file, ": tensor '", source.name, "', row ", r, ": found a value that is NaN or infinite");
      }
    }
  });
  for (int worker = 0; worker < pool_.size(); ++worker) {
    scratch(worker, static_cast<std::size_t>(kPanel * source.cols));
  }
  return std::make_unique<CpuWeight>(source);
}

std::unique_ptr<Weight> CpuBackend::load_rows(const WeightSource& source, std::span<const std::int32_t> rows) {
  check_source(source);
  const std::size_t bytes = row_bytes(source.type, static_cast<std::size_t>(source.cols));
  std::vector<std::byte> copy(rows.size() * bytes);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(copy.data() + i * bytes, source.data + static_cast<std::size_t>(rows[i]) * bytes, bytes);
  }
  return std::make_unique<CpuWeight>(source.type, static_cast<std::int64_t>(rows.size()), source.cols, std::move(copy));
}

void CpuBackend::dequantize(float* to_host, const WeightSource& source, std::int64_t row) {
  check_source(source);
  const std::size_t bytes = row_bytes(source.type, static_cast<std::size_t>(source.cols));
  kernels_.dequantize(source.type, source.data + static_cast<std::size_t>(row) * bytes, to_host, source.cols);
}

}  // namespace cpu
}  // namespace frspec
