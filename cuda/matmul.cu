// CUDA backend: matrix products. The kernels of packed weights are in matmul.cuh, one file for each family of formats;
// here are those that read rows as the file has them: F32 weights, and tables of which each row of x has its own list.
//
// Memory access of both: a warp has one row of the weight and reads it 32 columns at a time, contiguous (F32: 128
// bytes). `multiply_f32` keeps the sums of eight rows of x at once and takes the weight from L1 for the next eight.
// `multiply_listed` dequantizes column by column: a warp's reads lie in one block of the format.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/device/warp.cuh"
#include "cuda/formats/all.cuh"
#include "cuda/prepare.h"
#include "cuda/weight.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

namespace {

constexpr std::int64_t kMostRows = 256;  // of x at a time: bounds the memory for sums of slices
constexpr int kRowsAtOnce = 8;           // of x, for F32 weights

__global__ void __launch_bounds__(kMatmulThreads)
    multiply_f32(const float* x, int rows, int cols, const float* weight, int columns, float* out,
                 std::int64_t out_stride, const float* bias, bool accumulate) {
  const int column = block_x() * warps() + warp();
  if (column >= columns) return;
  const float* w = weight + std::int64_t{column} * cols;
  for (int first = 0; first < rows; first += kRowsAtOnce) {
    float sums[kRowsAtOnce] = {};
    for (int c = lane(); c < cols; c += kWarp) {
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        if (first + r < rows) sums[r] = fma(w[c], x[std::int64_t{first + r} * cols + c], sums[r]);
      }
    }
    warp_sums(sums);
    if (lane() != 0) continue;
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (first + r >= rows) break;
      const float sum = bias != nullptr ? sums[r] + bias[column] : sums[r];
      float* at = out + (first + r) * out_stride + column;
      *at = accumulate ? *at + sum : sum;
    }
  }
}

// Grid: (lists in blocks of warps, rows of x).
template <class Format>
__global__ void __launch_bounds__(kMatmulThreads)
    multiply_listed(Tensor out, Tensor x, const std::byte* table, std::int64_t row_size, const std::int32_t* listed) {
  const std::int64_t at = std::int64_t{block_x()} * warps() + warp(), r = block_y();
  if (at >= out.cols) return;
  const std::byte* row = table + listed[r * out.cols + at] * row_size;
  const float* from = x.row(r);
  float sum = 0.0f;
  for (std::int64_t c = lane(); c < x.cols; c += kWarp) sum = fma(Format::value(row, c), from[c], sum);
  sum = warp_sum(sum);
  if (lane() == 0) out.row(r)[at] = sum;
}

}  // namespace

const MatmulKernels& matmul_kernels(DType type) {
  return with_packed_format(type, []<class Format>(Chosen<Format>) -> const MatmulKernels& {
    static const MatmulKernels kernels = make_matmul_kernels<Format>();
    return kernels;
  });
}

int matmul_slices(std::int64_t rows, std::int64_t cols, int tile_cols) {
  constexpr std::int64_t kEnough = 192, kWanted = 264;  // blocks: twice as many as a large device has multiprocessors
  constexpr std::int64_t kLeast = 512;                  // columns of a slice
  const std::int64_t strips = (rows + kStrip - 1) / kStrip, blocks = (strips + kMatmulWarps - 1) / kMatmulWarps;
  if (blocks >= kEnough || blocks == 0) return 1;
  const std::int64_t tiles = (cols + tile_cols - 1) / tile_cols;
  const std::int64_t most = std::min(cols / kLeast, tiles);
  return static_cast<int>(
      std::clamp<std::int64_t>((kWanted + blocks - 1) / blocks, 1, std::max<std::int64_t>(1, most)));
}

// Products with packed weights of one type, at most kMostJobs; weight.rows of them or fewer.
void CudaBackend::multiply_packed(const PreparedRows& x, std::span<const Product> products) {
  const MatmulKernels& kernels = matmul_kernels(products.front().weight->kept_type());
  const int index = x.tiles == 1 ? 0 : x.tiles == 2 ? 1 : x.tiles == 4 ? 2 : 3;
  const DeviceInfo& device = device_->runtime->device();
  const auto blocks_of = [&](const Product& product, int strips) {
    const auto rows = static_cast<int>((product.out.cols + kStrip - 1) / kStrip), some = kMatmulWarps * strips;
    return (rows + some - 1) / some;
  };
  const auto slices_of = [&](const Product& product) {
    return matmul_slices(product.weight->rows(), product.weight->cols(), kernels.tile_cols);
  };
  int wide_blocks = 0;
  for (const Product& product : products) wide_blocks += blocks_of(product, kernels.wide.strips) * slices_of(product);
  const bool is_wide = x.tiles == kMostTiles && wide_blocks * x.groups >= device.multiprocessors &&
                       kernels.wide.shared_bytes <= device.shared_bytes;
  const MatmulKernels::Variant& variant = is_wide ? kernels.wide : kernels.variants[index];
  MatmulLaunch work;
  work.x = x;
  int blocks = 0, counters = 0;
  std::int64_t partial = 0;
  for (const Product& product : products) {
    const CudaWeight& weight = *product.weight;
    MatmulJob& job = work.job[work.jobs++];
    job.weight = weight.data();
    job.bias = product.bias;
    job.out = product.out.data;
    job.out_stride = product.out.stride;
    job.accumulate = product.accumulate;
    job.columns = static_cast<int>(product.out.cols);
    job.strips = (job.columns + kStrip - 1) / kStrip;
    job.tiles = weight.tiles();
    job.slices = slices_of(product);
    job.blocks = blocks_of(product, variant.strips);
    job.first_block = blocks;
    blocks += job.blocks * job.slices;
    if (job.slices == 1) continue;
    job.counter = counters;
    counters += job.blocks * x.groups;
    job.partial = partial;
    partial += std::int64_t{job.slices} * x.groups * job.strips * x.tiles * kWarp;
  }
  if (partial > 0) {
    work.partial = partial_.take<float>(4 * static_cast<std::size_t>(partial));
    work.counters = counters_.take<std::int32_t>(static_cast<std::size_t>(counters));
  }
  launch("matmul", variant.kernel, {blocks, x.groups}, kMatmulThreads, variant.shared_bytes, work);
}

void CudaBackend::multiply(const Operand& x, std::span<const Product> products) {
  PreparedRows forms[kForms];
  bool is_prepared[kForms] = {}, is_done[kMostProducts] = {};
  for (std::size_t i = 0; i < products.size(); ++i) {
    if (is_done[i]) continue;
    const DType type = products[i].weight->kept_type();
    const auto form = static_cast<int>(form_of(type));
    if (!is_prepared[form]) {
      forms[form] = prepare(x, form_of(type));
      is_prepared[form] = true;
    }
    if (type == DType::F32) {
      const Product& p = products[i];
      const auto columns = static_cast<int>(p.out.cols);
      launch("multiply_f32", multiply_f32, {(columns + kMatmulWarps - 1) / kMatmulWarps}, kMatmulThreads, 0,
             reinterpret_cast<const float*>(forms[form].numbers), static_cast<int>(x.x.rows),
             static_cast<int>(x.x.cols), reinterpret_cast<const float*>(p.weight->data()), columns, p.out.data,
             p.out.stride, p.bias, p.accumulate);
      continue;
    }
    // All that have this type, in one launch.
    Product jobs[kMostJobs];
    std::size_t count = 0;
    for (std::size_t j = i; j < products.size() && count < kMostJobs; ++j) {
      if (is_done[j] || products[j].weight->kept_type() != type) continue;
      jobs[count++] = products[j];
      is_done[j] = true;
    }
    multiply_packed(forms[form], {jobs, count});
  }
}

void CudaBackend::matmul(const Operand& x, std::span<const Projection> projections) {
  for (std::int64_t first = 0; first < x.x.rows; first += kMostRows) {
    const std::int64_t count = std::min(kMostRows, x.x.rows - first);
    Operand part = x;
    part.x = x.x.row_range(first, count);
    if (x.up != nullptr) part.up = x.up + first * x.x.stride;
    for (std::size_t done = 0; done < projections.size(); done += kMostProducts) {
      Product products[kMostProducts];
      const std::size_t some = std::min<std::size_t>(kMostProducts, projections.size() - done);
      for (std::size_t i = 0; i < some; ++i) {
        const Projection& p = projections[done + i];
        products[i] = {p.out.row_range(first, count), static_cast<const CudaWeight*>(p.weight), p.bias, p.accumulate};
        products[i].out.cols = p.weight->rows();
      }
      multiply(part, {products, some});
    }
  }
}

Tensor CudaBackend::head_logits(Tensor hidden, const HeadColumns& head) {
  const auto& weight = static_cast<const CudaWeight&>(*head.weight);
  const std::int64_t columns = head.count > 0 ? head.count : weight.rows();
  float* memory = logits_.take<float>(static_cast<std::size_t>(hidden.rows * columns));
  const Tensor out{memory, hidden.rows, columns, columns};
  if (out.rows == 0 || columns == 0) return out;
  if (head.listed == nullptr) {
    for (std::int64_t first = 0; first < hidden.rows; first += kMostRows) {
      const std::int64_t count = std::min(kMostRows, hidden.rows - first);
      const Product product{out.row_range(first, count), &weight, nullptr, false};
      multiply({.x = hidden.row_range(first, count)}, {&product, 1});
    }
    apply(weight.logit_rule(), out);
    return out;
  }
  const auto bytes = static_cast<std::int64_t>(row_bytes(weight.kept_type(), static_cast<std::size_t>(weight.cols())));
  with_format(weight.kept_type(), [&]<class Format>(Chosen<Format>) {
    const Grid grid{static_cast<int>((columns + kMatmulWarps - 1) / kMatmulWarps), static_cast<int>(out.rows)};
    launch("multiply_listed", multiply_listed<Format>, grid, kMatmulThreads, 0, out, hidden, weight.data(), bytes,
           head.listed);
  });
  apply(weight.logit_rule(), out);
  return out;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
