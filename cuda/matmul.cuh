// The kernel of matrix products with packed weights, for 1 to 64 rows of x at a time.
//
// A warp has one strip (16 rows of the weight) or two, and all rows of x of its group; it adds up along k in one order,
// whatever the number of rows. k may be split into slices, each for a block of its own (matmul_slices): their sums go
// to memory, and the block that comes last adds them up in the order of the slices.
//
// Memory access. Read: the tiles of a strip, which are contiguous, once, by cp.async in pieces of 16 bytes (a warp's
// copies are 512 contiguous bytes each, past L1), into a ring of its own in shared memory: 2 or 3 stages of 2 to 3.3 KB
// in flight for each warp and strip, 50 to 80 KB for a block. From there a lane reads its quants 16 bytes at a time,
// neighbours side by side (no bank conflicts), and scales by broadcast. x comes straight from global memory: 16 bytes a
// lane, 512 contiguous bytes a warp for 32 columns of 8 rows; the warps of a block read the same of it, so it is L1
// that serves most of them. With 64 rows that is 14 times the bytes of a Q4_K tile: hence two strips
// a warp where there are enough blocks.
// Written: whole sectors (8 lanes, 8 neighbouring floats of one row of the output); sums of slices as 16 bytes a lane.
#pragma once

#include "cuda/device/block.cuh"
#include "cuda/device/copy_async.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/formats/pieces.cuh"
#include "cuda/matmul.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// Stages of a ring. One strip: the ring of a block fits into 96 KB, which every device from sm_80 on has. Two: into the
// 163 KB of an A100.
template <class Format, int kStrips>
constexpr int ring_stages() {
  constexpr int kFit = (96 << 10) / (kMatmulWarps * Format::kStageTiles * Format::kTileBytes);
  return kStrips == 2 ? 3 : kFit < 4 ? kFit : 4;
}
template <class Format, int kStrips>
constexpr int ring_bytes() {  // of a warp
  return ring_stages<Format, kStrips>() * kStrips * Format::kStageTiles * Format::kTileBytes;
}

// Blocks that a multiprocessor is to have room for, as far as registers go: shared memory allows three.
constexpr int least_blocks(int tiles) { return tiles == 1 ? 3 : tiles <= 4 ? 2 : 1; }

// The sums of a warp: those of strip r, column tile c, as mma leaves them.
template <int kTiles, int kStrips>
using Sums = float[kStrips][kTiles][4];

// Adds up one tile. `x`: the numbers of its first 32 columns, at the lane's place.
template <class Format, int kTiles, int kStrips>
__device__ inline void multiply_tile(Sums<kTiles, kStrips>& sums, const std::byte* const (&tile)[kStrips],
                                     const PreparedRows& x, int group, int pair) {
  constexpr int kChunks = Format::kTileCols / kChunk;
  // Where registers are short, loads of x must not be moved up too far.
  [[maybe_unused]] constexpr int kUnrolled = Format::kScaling == Scaling::PerStep && kTiles >= 4 ? 1 : kChunks;
  const int g_t = lane();
  const std::byte* numbers = x.numbers + (std::int64_t{group} * x.pairs + pair) * (kTiles * 512) + 16 * g_t;
  [[maybe_unused]] const float* row_sums =
      x.sums + (std::int64_t{group} * x.pairs + pair) * (kTiles * kTileRows) + 2 * (g_t % 4);
  Format weights[kStrips];
  [[maybe_unused]] Sums<kTiles, kStrips> part;
#pragma unroll
  for (int r = 0; r < kStrips; ++r) weights[r].begin(tile[r]);
#pragma unroll kUnrolled
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int r = 0; r < kStrips; ++r) weights[r].chunk(tile[r], c);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      std::uint32_t left[kStrips][2][4];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) weights[r].fragments(c, b, left[r]);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const auto right = load_as<Words4>(numbers + ((2 * c + b) * kTiles + n) * 512);
#pragma unroll
        for (int r = 0; r < kStrips; ++r) {
          const std::uint32_t first[2] = {right.word[0], right.word[1]};
          const std::uint32_t second[2] = {right.word[2], right.word[3]};
          float (&sum)[4] = sums[r][n];
          if constexpr (Format::kScaling == Scaling::None) {
            if constexpr (Format::kBf16) {
              mma_bf16(sum, left[r][0], first);
              mma_bf16(sum, left[r][1], second);
            } else {
              mma_f16(sum, left[r][0], first);
              mma_f16(sum, left[r][1], second);
            }
          } else if constexpr (Format::kScaling == Scaling::PerTile) {
            if (c == 0 && b == 0) {
              mma_f16_first(part[r][n], left[r][0], first);
            } else {
              mma_f16(part[r][n], left[r][0], first);
            }
            mma_f16(part[r][n], left[r][1], second);
          } else if constexpr (Format::kScaling == Scaling::PerBlock) {
            float block[4];
            mma_f16_first(block, left[r][0], first);
            mma_f16(block, left[r][1], second);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] = fma(weights[r].scale(i / 2, b, 0), block[i], sum[i]);
            if constexpr (Format::kMinima) {
              const auto x_sums = load_as<Floats2>(row_sums + ((2 * c + b) * kTiles + n) * kTileRows);
#pragma unroll
              for (int i = 0; i < 4; ++i) sum[i] = fma(weights[r].minimum(i / 2, b), x_sums.value[i % 2], sum[i]);
            }
          } else {
#pragma unroll
            for (int s = 0; s < 2; ++s) {
              const std::uint32_t (&columns)[2] = s == 0 ? first : second;
              float step[4];
              mma_f16_first(step, left[r][s], columns);
#pragma unroll
              for (int i = 0; i < 4; ++i) sum[i] = fma(weights[r].scale(i / 2, b, s), step[i], sum[i]);
              if constexpr (Format::kMinima) {
                constexpr std::uint32_t kOne = twice(0x3C00);
                constexpr std::uint32_t kOnes[4] = {kOne, kOne, kOne, kOne};
                mma_f16_first(step, kOnes, columns);
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[i] = fma(weights[r].minimum(i / 2, b, s), step[i], sum[i]);
              }
            }
          }
        }
      }
    }
  }
  if constexpr (Format::kScaling == Scaling::PerTile) {
    const std::byte* minima = x.minima + (std::int64_t{group} * x.supers + pair / 8) * (kTiles * 256) + 8 * g_t;
#pragma unroll
    for (int r = 0; r < kStrips; ++r) weights[r].end(tile[r]);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const auto words = load_as<Words2>(minima + n * 256);
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        std::uint32_t left[4];
        weights[r].minima_fragment(left);
        float less[4];
        mma_f16_first(less, left, words.word);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[r][n][i] = fma(weights[r].tile_scale(i / 2), part[r][n][i], sums[r][n][i]);
          sums[r][n][i] = fma(weights[r].minima_scale(i / 2), less[i], sums[r][n][i]);
        }
      }
    }
  }
}

// Adds up the sums of all slices, in their order, as `from` has them for this lane: (slice, strip, column tile). Some
// slices at a time, so that as many loads are in flight for few column tiles as for many.
template <int kTiles, int kStrips>
__device__ inline void add_slices(Sums<kTiles, kStrips>& sums, const float* from, std::int64_t slice_size, int slices,
                                  int strips) {
  [[maybe_unused]] constexpr int kAtOnce = kTiles * kStrips >= 8 ? 1 : 8 / (kTiles * kStrips);
#pragma unroll kAtOnce
  for (int s = 0; s < slices; ++s) {
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
      if (r >= strips) break;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const auto more = load_as<Floats4>(from + 4 * (s * slice_size + (r * kTiles + n) * kWarp));
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[r][n][i] = s == 0 ? more.value[i] : sums[r][n][i] + more.value[i];
      }
    }
  }
}

// The sums as numbers of the output. All that is read for a strip is read first, so that it is waited for once; and
// without conditions: what is not there is its last neighbour.
template <int kTiles, int kStrips>
__device__ inline void write_sums(const Sums<kTiles, kStrips>& sums, const MatmulJob& job, const PreparedRows& x,
                                  int group, int first_strip) {
  const int first_row = group * kTiles * kTileRows + 2 * (lane() % 4);
  const auto row_of = [&](int n, int e) { return first_row + n * kTileRows + e; };
  const auto within = [](int i, int count) { return i < count ? i : count - 1; };
  float inverse[kTiles][2];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) inverse[n][e] = x.inverse[within(row_of(n, e), x.rows)];
  }
#pragma unroll
  for (int r = 0; r < kStrips; ++r) {
    const int first_column = kStrip * (first_strip + r) + lane() / 4;
    float bias[2] = {}, before[2][kTiles][2] = {};
    if (job.bias != nullptr) {
#pragma unroll
      for (int h = 0; h < 2; ++h) bias[h] = job.bias[within(first_column + 8 * h, job.columns)];
    }
    if (job.accumulate) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float* row = job.out + within(row_of(n, e), x.rows) * job.out_stride;
#pragma unroll
          for (int h = 0; h < 2; ++h) before[h][n][e] = row[within(first_column + 8 * h, job.columns)];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (row_of(n, e) >= x.rows) continue;
        float* row = job.out + row_of(n, e) * job.out_stride;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float value = sums[r][n][2 * h + e] * inverse[n][e];
          if (job.bias != nullptr) value = value + bias[h];
          if (job.accumulate) value = before[h][n][e] + value;
          if (first_column + 8 * h < job.columns) row[first_column + 8 * h] = value;
        }
      }
    }
  }
}

// Grid: (blocks of all jobs, groups of rows).
template <class Format, int kTiles, int kStrips>
__global__ void __launch_bounds__(kMatmulThreads, least_blocks(kTiles))
    matmul_tiles(const __grid_constant__ MatmulLaunch launch) {
  int number = 0;
  while (number + 1 < launch.jobs && block_x() >= launch.job[number + 1].first_block) ++number;
  const MatmulJob& job = launch.job[number];
  const int slice = (block_x() - job.first_block) / job.blocks, block = (block_x() - job.first_block) % job.blocks;
  const int group = block_y();
  const int first_strip = (block * kMatmulWarps + warp()) * kStrips;
  const int begin = static_cast<int>(std::int64_t{job.tiles} * slice / job.slices);
  const int end =
      first_strip < job.strips ? static_cast<int>(std::int64_t{job.tiles} * (slice + 1) / job.slices) : begin;

  SharedMemory shared;
  constexpr int kStages = ring_stages<Format, kStrips>();
  constexpr int kRing = ring_bytes<Format, kStrips>();
  constexpr int kStripStage = Format::kStageTiles * Format::kTileBytes;
  std::byte* ring = shared.take<std::byte>(kMatmulWarps * kRing) + warp() * kRing;
  int* flag = shared.take<int>(1);

  const std::byte* strips[kStrips];
#pragma unroll
  for (int r = 0; r < kStrips; ++r) {
    // A second strip that is not there: the first one again, whose sums are not written.
    const int strip = first_strip + r < job.strips ? first_strip + r : first_strip;
    strips[r] = job.weight + std::int64_t{strip} * job.tiles * Format::kTileBytes;
  }
  const int stages = (end - begin + Format::kStageTiles - 1) / Format::kStageTiles;
  const auto fetch = [&](int stage) {
    if (stage < stages) {
      const int first = begin + stage * Format::kStageTiles;
      const int tiles = end - first < Format::kStageTiles ? end - first : Format::kStageTiles;
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        std::byte* to = ring + (stage % kStages * kStrips + r) * kStripStage;
        const std::byte* from = strips[r] + std::int64_t{first} * Format::kTileBytes;
#pragma unroll
        for (int at = 0; at < kStripStage; at += 16 * kWarp) {
          const int mine = at + 16 * lane();
          if (mine < tiles * Format::kTileBytes) copy_async_16(to + mine, from + mine);
        }
      }
    }
    copy_commit();
  };

  Sums<kTiles, kStrips> sums = {};
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
  for (int stage = 0; stage < stages; ++stage) {
    copy_wait<kStages - 2>();
    warp_sync();  // what the others have copied is there, and all have read the stage before
    fetch(stage + kStages - 1);
    const int first = begin + stage * Format::kStageTiles;
#pragma unroll
    for (int i = 0; i < Format::kStageTiles; ++i) {
      if (first + i >= end) break;
      const std::byte* tile[kStrips];
#pragma unroll
      for (int r = 0; r < kStrips; ++r) {
        tile[r] = ring + (stage % kStages * kStrips + r) * kStripStage + i * Format::kTileBytes;
      }
      multiply_tile<Format, kTiles, kStrips>(sums, tile, launch.x, group, (first + i) * (Format::kTileCols / 32));
    }
  }

  if (job.slices > 1) {
    // Sums of slices: (slice, group, strip, column tile, lane), 16 bytes each.
    const std::int64_t slice_size = std::int64_t{launch.x.groups} * job.strips * (kTiles * kWarp);
    float* partial = launch.partial +
                     4 * (job.partial + (std::int64_t{group} * job.strips + first_strip) * (kTiles * kWarp) + lane());
#pragma unroll
    for (int r = 0; r < kStrips; ++r) {
      if (first_strip + r >= job.strips) break;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        store_as(partial + 4 * (slice * slice_size + (r * kTiles + n) * kWarp),
                 Floats4{{sums[r][n][0], sums[r][n][1], sums[r][n][2], sums[r][n][3]}});
      }
    }
    if (!is_last_block(launch.counters + job.counter + group * job.blocks + block, job.slices, flag)) return;
    add_slices<kTiles, kStrips>(sums, partial, slice_size, job.slices, job.strips - first_strip);
  }
  write_sums<kTiles, kStrips>(sums, job, launch.x, group, first_strip);
}

template <class Format, int kTiles, int kStrips>
MatmulKernels::Variant matmul_variant() {
  return {&matmul_tiles<Format, kTiles, kStrips>, kStrips,
          shared_bytes<std::byte>(kMatmulWarps * ring_bytes<Format, kStrips>()) + shared_bytes<int>(1)};
}

template <class Format>
MatmulKernels make_matmul_kernels() {
  return {Format::kTileCols,
          Format::kTileBytes,
          {matmul_variant<Format, 1, 1>(), matmul_variant<Format, 2, 1>(), matmul_variant<Format, 4, 1>(),
           matmul_variant<Format, 8, 1>()},
          matmul_variant<Format, 8, 2>()};
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
