#include "backend/planning_backend.h"

#include <cstring>

#include "tensor/dequantize.h"

namespace frspec {

Buffer PlanningBackend::allocate(std::size_t bytes) {
  buffers_ += bytes;
  // An address that nobody follows, but that is not null: there is a buffer.
  alignas(64) static std::byte nowhere[64];
  return Buffer(nowhere, bytes, [](void*) {});
}

void PlanningBackend::download(void* to_host, const void*, std::size_t bytes) { std::memset(to_host, 0, bytes); }

std::unique_ptr<Weight> PlanningBackend::count(const WeightSource& source, std::int64_t rows, bool is_table) {
  check_weight_type(source);
  weights_ += device_.weight_bytes(source, rows, is_table);
  return std::make_unique<Weight>(source.type, rows, source.cols);
}

std::unique_ptr<Weight> PlanningBackend::load(const WeightSource& source) { return count(source, source.rows, false); }

std::unique_ptr<Weight> PlanningBackend::load_table(const WeightSource& source) {
  return count(source, source.rows, true);
}

std::unique_ptr<Weight> PlanningBackend::load_experts(std::span<const WeightSource> sources) {
  // A device keeps them as the file has them.
  return count(sources[0], sources[0].rows * static_cast<std::int64_t>(sources.size()), true);
}

std::unique_ptr<Weight> PlanningBackend::load_rows(const WeightSource& source, std::span<const std::int32_t> rows) {
  const auto number = static_cast<std::int64_t>(rows.size());
  chosen_ += device_.weight_bytes(source, number, false);
  return count(source, number, false);
}

}  // namespace frspec
