// CPU backend: rows copied, looked up and normed.
#include <algorithm>
#include <cstring>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {

void CpuBackend::embed(Tensor out, const Weight& table, const std::int32_t* ids, float scale) {
  const auto& weight = static_cast<const CpuWeight&>(table);
  pool_.parallel_for(out.rows, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      weight.dequantize(ids[r], out.row(r));
      if (scale != 1.0f) std::for_each_n(out.row(r), out.cols, [scale](float& x) { x *= scale; });
    }
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

void CpuBackend::add(Tensor x, Tensor y, const float* norm, float epsilon, float scale) {
  pool_.parallel_for(x.rows, 16, [&](std::int64_t begin, std::int64_t end, int worker) {
    float* normed = row_scratch_[static_cast<std::size_t>(worker)].floats(static_cast<std::size_t>(x.cols));
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = y.row(r);
      if (norm != nullptr) {
        kernels_.rms_norm(normed, row, norm, x.cols, epsilon);
        row = normed;
      }
      kernels_.add_scaled(x.row(r), row, scale, x.cols);
    }
  });
}

void CpuBackend::apply(const LogitRule& rule, Tensor logits) {
  if (!rule.changes()) return;
  pool_.parallel_for(logits.rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) kernels_.to_logits(logits.row(r), logits.cols, rule.scale, rule.cap);
  });
}

}  // namespace frspec::cpu
