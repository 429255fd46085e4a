// Matrix products with packed weights: what the operation (matmul.cu) and the kernels (matmul.cuh) agree on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/namespace.h"
#include "tensor/dtype.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

inline constexpr int kMatmulThreads = 256;
inline constexpr int kMatmulWarps = kMatmulThreads / 32;
inline constexpr int kMostJobs = 4;     // products with one x in one launch
inline constexpr int kMostTiles = 8;    // column tiles, of 8 rows of x each, that a block multiplies at once
inline constexpr int kTileRows = 8;     // rows of x in a column tile
inline constexpr int kSumColumns = 32;  // columns of x that are summed up for the minima

// Rows of x as operand B, made by prepare (prepare.cu). For each group of `tiles` column tiles:
//   numbers (columns / 32, tiles, 32 lanes, 16 bytes): the pairs (step, j) of lane 4 g + t for row g of the column tile
//   sums    (columns / 32, tiles, 8 rows) f32: of 32 columns
//   minima  (columns / 256, tiles, 32 lanes, 8 bytes): the sums of blocks 2 t and 2 t + 1 of row g as f16 pairs, whose
//           sums they are: what was rounded off is in the second word
// Rows that are missing are zero.
struct PreparedRows {
  std::byte* numbers = nullptr;
  float* sums = nullptr;
  std::byte* minima = nullptr;
  float* inverse = nullptr;  // (rows) what a row of the product is multiplied by
  int rows = 0;
  int tiles = 0;   // of a group: 1, 2, 4 or 8
  int groups = 0;  // as many as the rows need
  int pairs = 0;   // columns / 32, even
  int supers = 0;  // columns / 256
};

// One product of a launch: blocks first_block to first_block + blocks * slices - 1.
struct MatmulJob {
  const std::byte* weight = nullptr;
  const float* bias = nullptr;
  float* out = nullptr;
  std::int64_t out_stride = 0;
  std::int64_t partial = 0;  // where its sums of slices are, in units of 16 bytes
  int columns = 0;           // rows of the weight that are wanted
  int strips = 0;            // the same in strips
  int tiles = 0;             // of a strip
  int slices = 1;            // in which the tiles of a strip are split
  int first_block = 0;
  int blocks = 0;   // for all strips
  int counter = 0;  // the first of blocks * groups
  bool accumulate = false;
};

struct MatmulLaunch {
  PreparedRows x;
  float* partial = nullptr;
  std::int32_t* counters = nullptr;  // zero
  int jobs = 0;
  MatmulJob job[kMostJobs];
};

// The kernels of one format.
struct MatmulKernels {
  using Kernel = void (*)(MatmulLaunch);
  struct Variant {
    Kernel kernel = nullptr;
    int strips = 1;  // of a warp
    std::size_t shared_bytes = 0;
  };
  int tile_cols = 0;
  std::size_t tile_bytes = 0;
  Variant variants[4];  // for 1, 2, 4 and 8 column tiles
  // For 8, with two strips for each warp, which read x once: the same bits. It needs more shared memory, and twice as
  // many rows of weights for as many blocks.
  Variant wide;
};

// Of a format of packed weights (formats/all.cuh): each is instantiated in one of the matmul_*.cu.
template <class Format>
MatmulKernels make_matmul_kernels();
const MatmulKernels& matmul_kernels(DType type);

// In how many slices the columns of a weight are split: by its shape only, so that the bits of a product do not depend
// on the number of rows.
int matmul_slices(std::int64_t rows, std::int64_t cols, int tile_cols);

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
