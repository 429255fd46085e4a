// Products by AMX tiles: 16 rows of x times one panel at a time. Included by multiply.inl, inside its namespace.
//
// Integer dot products are exact, so tiles may take the many rows and vectors the few: the f32 arithmetic around them
// is that of int8_tile, number for number. bf16 sums are rounded by the tile unit in its own way, so there it takes
// every row; rows that do not exist cost time and nothing else.

// Sixteen rows of one panel. `codes` are signed.
template <DType kType>
inline void matrix_int8_tile(const Unpacked& panel, const std::byte* x, std::int64_t row_stride, std::int64_t blocks,
                             float* sums, const Ahead& ahead) {
  using F = Format<kType, false>;
  constexpr int kParts = F::kHalfBlocks ? 2 : 1;
  constexpr int kBytes = 32 / kParts;  // of k per product
  const auto group = [&](int m) -> const ActivationGroup& {
    return *reinterpret_cast<const ActivationGroup*>(x + m * row_stride);
  };
  alignas(kLine) std::int32_t dots[2][kMatrixRows][kPanel];
  Floats totals[kMatrixRows];
#pragma GCC unroll 16
  for (int m = 0; m < kMatrixRows; ++m) totals[m] = load(sums + m * kSumStride);
  for (std::int64_t b = 0; b < blocks * kParts; ++b) {
    if (b % kParts == 0) ahead.fetch(b / kParts);
    // Two sets of tiles in turn, so that the next product need not wait until this one has been read.
    auto& now = dots[b % 2];
    const std::byte* lines = panel.codes + b * (kBytes / 4) * kLine;
    if (b % 2 == 0) {
      tile_zero<0>();
      tile_load<4>(x + b * kBytes, row_stride);
      tile_load<6>(lines, kLine);
      tile_dot_bytes<0, 4, 6>();
      tile_store<0>(now, kLine);
    } else {
      tile_zero<1>();
      tile_load<5>(x + b * kBytes, row_stride);
      tile_load<7>(lines, kLine);
      tile_dot_bytes<1, 5, 7>();
      tile_store<1>(now, kLine);
    }
    const Floats scale = load(panel.scales + b * kPanel);
#pragma GCC unroll 16
    for (int m = 0; m < kMatrixRows; ++m) {
      Ints dot;
      __builtin_memcpy(&dot, now[m], sizeof dot);
      const Floats product = __builtin_convertvector(dot, Floats) * scale;
      totals[m] = multiply_add(product, splat(group(m).scales[b / kParts]), totals[m]);
    }
    if constexpr (F::kMinima) {
      const Floats minimum = load(panel.minima + b * kPanel);
#pragma GCC unroll 16
      for (int m = 0; m < kMatrixRows; ++m) {
        totals[m] = multiply_add(minimum, splat(sum_of<F::kHalfBlocks>(group(m), b)), totals[m]);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kMatrixRows; ++m) store(sums + m * kSumStride, totals[m]);
}

template <DType kType, int kPanels>
void matrix_int8_group(const std::byte* const* now, const std::byte* next, std::int64_t blocks, const Activations& x,
                       const ProductScratch& scratch) {
  shape_tiles(Format<kType>::kHalfBlocks ? TileShape::HalfBlock : TileShape::Block);
  const std::int64_t lines = group_layout(kType, kGroup / 32).bytes / kLine;
  const std::int64_t count = (x.rows + kMatrixRows - 1) / kMatrixRows, pieces = kGroup / 32;
  const std::int64_t per_piece = (lines + count * pieces - 1) / (count * pieces);
  for (int i = 0; i < kPanels; ++i) {
    const Unpacked panel =
        unpack_group<kType, false>(now[i], blocks, scratch.codes + i * (kGroup / 4) * kLine,
                                   scratch.scales + i * 16 * kPanel, scratch.minima + i * 16 * kPanel);
    for (std::int64_t t = 0; t < count; ++t) {
      const Ahead ahead{next + i * lines * kLine + t * pieces * per_piece * kLine, per_piece};
      matrix_int8_tile<kType>(panel, x.data + t * kMatrixRows * x.row_stride, x.row_stride, blocks,
                              scratch.sums + t * kMatrixRows * kSumStride + i * kPanel, ahead);
    }
  }
}

// `lines` lines of two panels; a product takes 16.
template <int kPanels>
void matrix_bf16_group(const std::byte* const* now, const std::byte* next, std::int64_t lines, const Activations& x,
                       const ProductScratch& scratch) {
  constexpr std::int64_t kLines = 16, kStride = kSumStride * static_cast<std::int64_t>(sizeof(float));
  static_assert(kPanels == 2);
  shape_tiles(TileShape::Bf16);
  const std::byte* panels[kPanels];
  for (int i = 0; i < kPanels; ++i) {
    panels[i] = now[i];
    if (lines % kLines != 0) {
      // The end of a row: lines behind it are the next panel's, and x's zeros do not silence what is not finite.
      std::byte* whole = scratch.codes + i * (kGroup / 2) * kLine;
      __builtin_memcpy(whole, now[i], static_cast<std::size_t>(lines * kLine));
      __builtin_memset(whole + lines * kLine, 0, static_cast<std::size_t>((kLines - lines % kLines) * kLine));
      panels[i] = whole;
    }
  }
  const std::int64_t products = (lines + kLines - 1) / kLines;
  for (std::int64_t first = 0; first < x.rows; first += 2 * kMatrixRows) {
    const bool two = first + kMatrixRows < x.rows;
    const std::byte* rows = x.data + first * x.row_stride;
    float* sums = scratch.sums + first * kSumStride;
    tile_load<0>(sums, kStride);
    tile_load<1>(sums + kPanel, kStride);
    if (two) {
      tile_load<2>(sums + kMatrixRows * kSumStride, kStride);
      tile_load<3>(sums + kMatrixRows * kSumStride + kPanel, kStride);
    }
    for (std::int64_t p = 0; p < products; ++p) {
      if (first == 0) {
        Ahead{next, kPanels * kLines}.fetch(p);
      }
      tile_load<4>(rows + p * kLine, x.row_stride);
      tile_load<6>(panels[0] + p * kLines * kLine, kLine);
      tile_dot_bf16<0, 4, 6>();
      tile_load<7>(panels[1] + p * kLines * kLine, kLine);
      tile_dot_bf16<1, 4, 7>();
      if (two) {
        tile_load<5>(rows + kMatrixRows * x.row_stride + p * kLine, x.row_stride);
        tile_dot_bf16<2, 5, 6>();
        tile_dot_bf16<3, 5, 7>();
      }
    }
    tile_store<0>(sums, kStride);
    tile_store<1>(sums + kPanel, kStride);
    if (two) {
      tile_store<2>(sums + kMatrixRows * kSumStride, kStride);
      tile_store<3>(sums + kMatrixRows * kSumStride + kPanel, kStride);
    }
  }
}
