// CUDA backend: rows of x as the left side of a matrix product (matmul.h).
//
// The rounding of x is part of the definition of a product. Where weights are BF16, x is rounded to bf16; where they
// are F32, not at all. Else each row is multiplied by the power of two that brings its largest magnitude into [512,
// 1024), which is exact, and rounded to f16; the row of the product is multiplied by the inverse. A row with a number
// that is not finite is not multiplied: its products are not finite, either.
//
// Memory access: a block for each row reads x (and the norm's weights, or up) three times, 16 bytes a lane, contiguous;
// twice of that from L1. It writes 8 bytes a lane, 64 contiguous bytes for 32 columns, the rest of 512 bytes being
// other rows'. That is a few KB, and the time is latency: hence as many threads as there are groups of four columns.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/device/activation.cuh"
#include "cuda/device/block.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/numbers.cuh"
#include "cuda/prepare.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

namespace {

constexpr int kMostThreads = 1024;

struct RowsToPrepare {
  const float* x;
  std::int64_t stride;
  const float* norm;
  const float* up;
  Activation activation;
  float epsilon;
  int cols;
  PreparedRows to;
};

// Four columns from `at` on; zero behind the end.
__device__ inline Floats4 load_columns(const float* row, int at, int cols) {
  return load_four(row + at, cols - at, is_aligned_16(row + at));
}

// Four columns of the operand of row r.
__device__ inline Floats4 operand(const RowsToPrepare& rows, int r, int at, float factor) {
  Floats4 four = load_columns(rows.x + r * rows.stride, at, rows.cols);
  if (rows.norm != nullptr) {
    const Floats4 weight = load_columns(rows.norm, at, rows.cols);
    for (int i = 0; i < 4; ++i) four.value[i] = four.value[i] * factor * weight.value[i];
  } else if (rows.up != nullptr) {
    const Floats4 up = load_columns(rows.up + r * rows.stride, at, rows.cols);
    for (int i = 0; i < 4; ++i) {
      four.value[i] = activated(rows.activation, four.value[i], up.value[i]);
    }
  }
  return four;
}

template <Form kForm>
__global__ void __launch_bounds__(kMostThreads) prepare_rows(const __grid_constant__ RowsToPrepare rows) {
  SharedMemory shared;
  auto* scratch = shared.take<float>(kWarp);
  auto* words = shared.take<std::uint32_t>(kWarp);
  const PreparedRows& to = rows.to;
  const int r = block_x(), step_cols = 4 * threads();
  const bool is_there = r < to.rows;
  float factor = 1.0f;
  if (is_there && rows.norm != nullptr) {
    float sum = 0.0f;
    for (int at = 4 * thread(); at < rows.cols; at += step_cols) {
      const Floats4 four = load_columns(rows.x + r * rows.stride, at, rows.cols);
      for (const float value : four.value) sum = fma(value, value, sum);
    }
    sum = block_sum(sum, scratch);
    factor = 1.0f / std::sqrt(sum / static_cast<float>(rows.cols) + rows.epsilon);
  }
  float scale = 1.0f;
  if constexpr (kForm == Form::F16) {
    if (is_there) {
      std::uint32_t largest = 0;  // magnitudes are in the order of their bits; NaN is above infinity
      for (int at = 4 * thread(); at < rows.cols; at += step_cols) {
        const Floats4 four = operand(rows, r, at, factor);
        for (const float value : four.value) {
          const std::uint32_t bits = float_to_bits(value) & 0x7FFFFFFFu;
          largest = bits > largest ? bits : largest;
        }
      }
      largest = block_max(largest, words);
      const int exponent = 9 + 127 - static_cast<int>(largest >> 23);
      const int power = largest >= 0x7F800000u ? 0 : exponent > 126 ? 126 : exponent;
      scale = power_of_two(power);
      if (thread() == 0) to.inverse[r] = power_of_two(-power);
    }
  } else if constexpr (kForm == Form::Bf16) {
    if (is_there && thread() == 0) to.inverse[r] = 1.0f;
  }
  if constexpr (kForm == Form::F32) {
    float* row = reinterpret_cast<float*>(to.numbers) + std::int64_t{r} * rows.cols;
    for (int at = 4 * thread(); at < rows.cols; at += step_cols) {
      const Floats4 four = operand(rows, r, at, factor);
      for (int i = 0; i < 4; ++i) {
        if (at + i < rows.cols) row[at + i] = four.value[i];
      }
    }
    return;
  }
  const int g = r % kTileRows, n = r / kTileRows % to.tiles, group = r / kTileRows / to.tiles;
  const int width = 32 * to.pairs;
  for (int base = 0; base < width; base += step_cols) {
    const int at = base + 4 * thread();
    Floats4 four = {};
    if (is_there && at < width) four = operand(rows, r, at, factor);
    std::uint16_t halves[4];
    float sum = 0.0f;
    for (int i = 0; i < 4; ++i) {
      if constexpr (kForm == Form::F16) {
        halves[i] = float_to_half(four.value[i] * scale);
        sum += half_to_float(halves[i]);
      } else {
        halves[i] = float_to_bf16(four.value[i]);
      }
    }
    const int pair = at / 32, eighth = at / 4 % 8, t = eighth % 4;
    const std::int64_t place = (std::int64_t{group} * to.pairs + pair) * to.tiles + n;
    if (at < width) {
      store_as(to.numbers + (place * kWarp + 4 * g + t) * 16 + 8 * (eighth / 4),
               Words2{{pack_halves(halves[0], halves[1]), pack_halves(halves[2], halves[3])}});
    }
    if constexpr (kForm == Form::F16) {
      for (int mask = 1; mask < 8; mask *= 2) sum += shuffle_xor(sum, mask);
      if (at < width && eighth == 0) {
        to.sums[place * kTileRows + g] = sum;
        if (to.supers > 0) {
          const std::int64_t super = (std::int64_t{group} * to.supers + pair / 8) * to.tiles + n;
          const std::uint16_t high = float_to_half(sum);
          auto* word = reinterpret_cast<std::uint16_t*>(to.minima + (super * kWarp + 4 * g + pair % 8 / 2) * 8);
          word[pair % 2] = high;
          word[2 + pair % 2] = float_to_half(sum - half_to_float(high));
        }
      }
    }
  }
}

}  // namespace

PreparedRows CudaBackend::prepare(const Operand& x, Form form) {
  const auto rows = static_cast<int>(x.x.rows), cols = static_cast<int>(x.x.cols);
  const int tiles_needed = (rows + kTileRows - 1) / kTileRows;
  PreparedRows to;
  to.rows = rows;
  to.tiles = tiles_needed <= 2 ? tiles_needed : tiles_needed <= 4 ? 4 : kMostTiles;
  to.groups = (tiles_needed + to.tiles - 1) / to.tiles;
  to.pairs = (cols + 63) / 64 * 2;
  to.supers = form == Form::F16 && cols % 256 == 0 ? cols / 256 : 0;
  Scratch& memory = prepared_[static_cast<int>(form)];
  int padded = rows;
  if (form == Form::F32) {
    to.numbers =
        memory.take<std::byte>(std::size_t{4} * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
  } else {
    padded = to.groups * to.tiles * kTileRows;
    const auto tiles = static_cast<std::size_t>(to.groups * to.tiles);
    const std::size_t numbers = tiles * static_cast<std::size_t>(to.pairs) * 512;
    const std::size_t sums = form == Form::F16 ? tiles * static_cast<std::size_t>(to.pairs) * kTileRows * 4 : 0;
    const std::size_t minima = tiles * static_cast<std::size_t>(to.supers) * 256;
    auto* bytes = memory.take<std::byte>(numbers + sums + minima + static_cast<std::size_t>(padded) * sizeof(float));
    to.numbers = bytes;
    to.sums = reinterpret_cast<float*>(bytes + numbers);
    to.minima = bytes + numbers + sums;
    to.inverse = reinterpret_cast<float*>(bytes + numbers + sums + minima);
  }
  const int threads = std::clamp((cols / 4 + kWarp - 1) / kWarp * kWarp, kWarp, kMostThreads);
  const RowsToPrepare job{x.x.data, x.x.stride, x.norm, x.up, x.activation, x.epsilon, cols, to};
  const std::size_t shared = shared_bytes<float>(kWarp) + shared_bytes<std::uint32_t>(kWarp);
  const auto run = [&](auto kernel) { launch("prepare_rows", kernel, {padded}, threads, shared, job); };
  switch (form) {
    case Form::F16:
      run(&prepare_rows<Form::F16>);
      break;
    case Form::Bf16:
      run(&prepare_rows<Form::Bf16>);
      break;
    case Form::F32:
      run(&prepare_rows<Form::F32>);
      break;
  }
  return to;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
