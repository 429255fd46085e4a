// CUDA backend: rows copied, looked up and normed.
//
// Memory. All of these read every input row once and write every output row once, neighbouring threads neighbouring
// 16 bytes where rows are aligned (they are, but for odd widths), else 4 bytes.
//   copy, gather_rows: a block per row, up to 256 threads, each with 16 bytes in flight and up to 4 such loads at once.
//   rms_norm: rows up to 512 columns are a warp's, 4 rows in a block; longer rows are a block's of 256 threads. The
//     second reading of x comes from L1. The weight is read by every row: from L2.
//   add: the same, a block per row; it reads and writes x, too. to_logits: in place, 256 columns to a block.
#include <algorithm>
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/device/activation.cuh"
#include "cuda/device/block.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/numbers.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kWarpCols = 512;  // up to here, a row is one warp's
constexpr int kRowsPerBlock = 4;         // of such rows

// Up to four floats of a row of n from column c on.
__device__ inline void store_some(float* row, std::int64_t c, std::int64_t n, bool aligned, const Floats4& some) {
  if (aligned && c + 4 <= n) return store_as(row + c, some);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (c + i < n) row[c + i] = some.value[i];
  }
}

// out[r] = x[rows[r]], or x[r] where `rows` is null.
__global__ void copy_rows(Tensor out, Tensor x, const std::int32_t* rows, bool aligned) {
  const std::int64_t r = block_x();
  const float* from = x.row(rows != nullptr ? rows[r] : r);
  float* to = out.row(r);
#pragma unroll 4
  for (std::int64_t c = std::int64_t{4} * thread(); c < out.cols; c += std::int64_t{4} * threads()) {
    store_some(to, c, out.cols, aligned, load_four(from + c, out.cols - c, aligned));
  }
}

// The squares that a thread of `count` adds up: those of columns 4 t to 4 t + 3 of each stride, in order, each of the
// four in a sum of its own.
__device__ inline float sum_of_squares(const float* x, std::int64_t cols, int t, int count, bool aligned) {
  float sums[4] = {};
  for (std::int64_t c = std::int64_t{4} * t; c < cols; c += std::int64_t{4} * count) {
    const Floats4 some = load_four(x + c, cols - c, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = fma(some.value[i], some.value[i], sums[i]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

__device__ inline void write_normed(float* out, const float* x, const float* weight, std::int64_t cols, float squares,
                                    float epsilon, int t, int count, bool aligned) {
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(cols) + epsilon);
  for (std::int64_t c = std::int64_t{4} * t; c < cols; c += std::int64_t{4} * count) {
    Floats4 some = load_four(x + c, cols - c, aligned);
    const Floats4 w = load_four(weight + c, cols - c, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) some.value[i] = some.value[i] * scale * w.value[i];
    store_some(out, c, cols, aligned, some);
  }
}

__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    norm_by_warp(Tensor out, Tensor x, const float* weight, float epsilon, bool aligned) {
  const std::int64_t r = std::int64_t{block_x()} * warps() + warp();
  if (r >= x.rows) return;  // a whole warp, and no barrier follows
  const float squares = warp_sum(sum_of_squares(x.row(r), x.cols, lane(), kWarp, aligned));
  write_normed(out.row(r), x.row(r), weight, x.cols, squares, epsilon, lane(), kWarp, aligned);
}

__global__ void __launch_bounds__(kThreads)
    norm_by_block(Tensor out, Tensor x, const float* weight, float epsilon, bool aligned) {
  SharedMemory shared;
  float* scratch = shared.take<float>(kThreads / kWarp);
  const std::int64_t r = block_x();
  const float squares = block_sum(sum_of_squares(x.row(r), x.cols, thread(), kThreads, aligned), scratch);
  write_normed(out.row(r), x.row(r), weight, x.cols, squares, epsilon, thread(), kThreads, aligned);
}

// x += scale * (normed) y.
__global__ void __launch_bounds__(kThreads)
    add_rows(Tensor x, Tensor y, const float* weight, float epsilon, float scale, bool aligned) {
  SharedMemory shared;
  float* scratch = shared.take<float>(kThreads / kWarp);
  const std::int64_t r = block_x();
  float norm = 1.0f;
  if (weight != nullptr) {
    const float squares = block_sum(sum_of_squares(y.row(r), y.cols, thread(), kThreads, aligned), scratch);
    norm = 1.0f / std::sqrt(squares / static_cast<float>(y.cols) + epsilon);
  }
  for (std::int64_t c = thread(); c < x.cols; c += threads()) {
    const float value = y.row(r)[c];
    x.row(r)[c] = fma(weight != nullptr ? value * norm * weight[c] : value, scale, x.row(r)[c]);
  }
}

__global__ void __launch_bounds__(kThreads) to_logits(Tensor logits, LogitRule rule) {
  const std::int64_t c = std::int64_t{block_y()} * threads() + thread();
  if (c >= logits.cols) return;
  float& value = logits.row(block_x())[c];
  value *= rule.scale;
  if (rule.cap > 0.0f) value = soft_capped(value, rule.cap);
}

bool aligned(const Tensor& x) {
  return fits_16(x.data, x.rows > 1 ? x.stride * static_cast<std::int64_t>(sizeof(float)) : 0);
}

// Threads for a row of so many columns, four to a thread.
int threads_for(std::int64_t cols) {
  return static_cast<int>(std::clamp<std::int64_t>((cols + 4 * kWarp - 1) / (4 * kWarp) * kWarp, kWarp, kThreads));
}

}  // namespace

void CudaBackend::copy(Tensor out, Tensor x) { gather_rows(out.first_rows(x.rows).col_range(0, x.cols), x, nullptr); }

void CudaBackend::gather_rows(Tensor out, Tensor x, const std::int32_t* rows) {
  if (out.rows == 0 || out.cols == 0) return;
  // Where rows are picked, the distance between them counts however many there are.
  const bool fit = aligned(out) && fits_16(x.data, x.stride * static_cast<std::int64_t>(sizeof(float)));
  launch("copy_rows", copy_rows, {static_cast<int>(out.rows)}, threads_for(out.cols), 0, out, x, rows, fit);
}

void CudaBackend::rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) {
  if (x.rows == 0 || x.cols == 0) return;
  const bool fit = aligned(out) && aligned(x) && fits_16(weight, 0);
  if (x.cols <= kWarpCols) {
    const int rows = static_cast<int>(std::min<std::int64_t>(x.rows, kRowsPerBlock));
    launch("norm_by_warp", norm_by_warp, {static_cast<int>((x.rows + rows - 1) / rows)}, rows * kWarp, 0, out, x,
           weight, epsilon, fit);
  } else {
    launch("norm_by_block", norm_by_block, {static_cast<int>(x.rows)}, kThreads, shared_bytes<float>(kThreads / kWarp),
           out, x, weight, epsilon, fit);
  }
}

void CudaBackend::add(Tensor x, Tensor y, const float* norm, float epsilon, float scale) {
  if (x.rows == 0 || x.cols == 0) return;
  launch("add_rows", add_rows, {static_cast<int>(x.rows)}, kThreads, shared_bytes<float>(kThreads / kWarp), x, y, norm,
         epsilon, scale, aligned(y));
}

void CudaBackend::apply(const LogitRule& rule, Tensor logits) {
  if (!rule.changes() || logits.rows == 0 || logits.cols == 0) return;
  const Grid grid{static_cast<int>(logits.rows), static_cast<int>((logits.cols + kThreads - 1) / kThreads)};
  launch("to_logits", to_logits, grid, kThreads, 0, logits, rule);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
