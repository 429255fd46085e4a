// CPU backend: rows copied, looked up and normed.
#include <cstring>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {

void CpuBackend::embed(Tensor out, const Weight& table, const std::int32_t* ids) {
  const auto& weight = static_cast<const CpuWeight&>(table);
  pool_.parallel_for(out.rows, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) weight.dequantize(ids[r], out.row(r));
  });
}

void CpuBackend::copy(Tensor out, Tensor x) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    std::memcpy(out.row(r), x.row(r), static_cast<std::size_t>(x.cols) * sizeof(float));
  }
}

void CpuBackend::gather_rows(Tensor out, Tensor x, const std::int32_t* rows) {
  for (std::int64_t r = 0; r < out.rows; ++r) {
    std::memcpy(out.row(r), x.row(rows[r]), static_cast<std::size_t>(out.cols) * sizeof(float));
  }
}

void CpuBackend::rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) {
  pool_.parallel_for(x.rows, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) kernels_.rms_norm(out.row(r), x.row(r), weight, x.cols, epsilon);
  });
}

}  // namespace frspec::cpu
