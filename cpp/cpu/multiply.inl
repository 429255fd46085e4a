// The matrix product over panels: `multiply`, and which form of x it wants.
//
// Integer products are exact, so their order does not matter; what is added in f32 is added per output in one order:
// block after block of a group, then the second terms of its blocks, then the next group. Tiles differ in their number
// of rows only by how many outputs are in flight.

namespace {

// Whether products of this type are multiplied here, and not by the table of FRSPEC_BASE.
constexpr bool is_own([[maybe_unused]] DType type) {
#ifdef FRSPEC_BASE
  const bool is_quantized = elements_per_line(type) == 0;
  return FRSPEC_BF16 ? type == DType::BF16 || (FRSPEC_AMX && is_quantized) : is_quantized;
#else
  return true;
#endif
}

// --- Tiles: M rows of x times V vectors of outputs ---

constexpr int kPanelVectors = kPanel / kLanes;
constexpr int kPairRows = FRSPEC_PAIRS ? 4 : kTileRows;  // rows per tile where small codes are multiplied
constexpr int kSumStride = kMaxPairs * kPair * kPanel;   // floats from row to row of the running sums

inline Ints load_ints(const std::byte* p) {
  Ints v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline Ints splat_ints(std::int32_t x) { return x - Ints{}; }

inline std::int32_t word_at(const std::int8_t* p) {
  std::int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// What comes next in memory: fetched into cache while this group is multiplied, a part with each tile, so that memory
// is busy all the time and not only while the first tile waits for it.
struct Ahead {
  const std::byte* at;
  std::int64_t lines;  // per piece of a tile: a block of 32 elements, or 16 lines of floats

  void fetch(std::int64_t piece) const {
    for (std::int64_t line = piece * lines; line < (piece + 1) * lines; ++line) {
      __builtin_prefetch(at + line * kLine, 0, 3);
    }
  }
};

// What a tile must know of the codes it multiplies. Formats that agree in it share the tiles.
struct TileKind {
  bool half_blocks, minima;
  int offset;  // -1: codes have none; else by how much less than 128 their zero is, as a shift
  int fit;     // 0, or the steps after which pairs are widened
};

// Where products of small codes are added in pairs of 16 bits (FRSPEC_PAIRS) they are widened after as many steps as
// surely fit: each adds at most 2 * 127 * (2^bits - 1).
template <DType kType>
constexpr TileKind tile_kind() {
  using F = Format<kType>;
  constexpr int kFit = !FRSPEC_PAIRS || !F::kUnsignedHere ? 0 : F::kBits <= 4 ? 8 : F::kBits == 5 ? 4 : 2;
  static_assert(kFit * 2 * 127 * ((1 << F::kBits) - 1) < 1 << 15);
  return {F::kHalfBlocks, F::kMinima, F::kUnsignedHere && !F::kMinima ? 8 - F::kBits - F::kShift : -1, kFit};
}

// The dot products of a block, or of half of one.
template <TileKind kKind>
struct Dots {
  static Ints begin(const ActivationCodes& x, std::int64_t at) {
    if constexpr (kKind.offset < 0) return Ints{};
    const std::int32_t offset = kKind.half_blocks ? x.offset16[at] : x.offset32[at];
    return splat_ints(offset >> (kKind.offset < 0 ? 0 : kKind.offset));  // to the zero of the codes; nothing is lost
  }

  // Step `s` of a block: `pairs` is what this sum has for its own use.
  template <int kStep>
  FRSPEC_INLINE static void add(Ints& sum, [[maybe_unused]] Ints& pairs, Ints w, Ints x) {
#if FRSPEC_PAIRS
    if constexpr (kKind.fit > 0) {
      pairs = kStep % kKind.fit == 0 ? pair_products(w, x) : add_pairs(pairs, pair_products(w, x));
      if constexpr (kStep % kKind.fit == kKind.fit - 1 || kStep + 1 == kBlockSteps / (kKind.half_blocks ? 2 : 1)) {
        sum += widen_pairs(pairs);
      }
      return;
    }
#endif
    sum = dot_bytes(sum, w, x);
  }
};

// The sum of what the codes of a block stand for, or of half a block: what minima are multiplied by.
template <bool kHalfBlocks>
inline float sum_of(const ActivationGroup& row, std::int64_t b) {
  return kHalfBlocks ? static_cast<float>(row.main.offset16[b]) * (-1.0f / 128.0f) * row.scales[b / 2] : row.sums[b];
}

template <TileKind kKind, int M, int V>
void int8_tile(const Unpacked* panels, const std::byte* x, std::int64_t row_stride, std::int64_t blocks, float* sums,
               const Ahead& ahead) {
  using D = Dots<kKind>;
  constexpr int kParts = kKind.half_blocks ? 2 : 1;
  constexpr int kSteps = kBlockSteps / kParts;
  const ActivationGroup* rows[M];
  Floats totals[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    rows[m] = reinterpret_cast<const ActivationGroup*>(x + m * row_stride);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) totals[m][v] = load(sums + m * kSumStride + v * kLanes);
  }
  for (std::int64_t b = 0; b < blocks * kParts; ++b) {
    if (b % kParts == 0) ahead.fetch(b / kParts);
    Ints dots[M][V], pairs[M][V];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) dots[m][v] = D::begin(rows[m]->main, b);
    }
    unrolled<kSteps>([&]<int kStep>() FRSPEC_INLINED {
      Ints w[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        w[v] = load_ints(panels[v / kPanelVectors].codes + (b * kSteps + kStep) * kLine +
                         v % kPanelVectors * static_cast<int>(sizeof(Ints)));
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Ints four = splat_ints(word_at(rows[m]->main.codes + 4 * (b * kSteps + kStep)));
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) D::template add<kStep>(dots[m][v], pairs[m][v], w[v], four);
      }
    });
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const std::int64_t at = b * kPanel + v % kPanelVectors * kLanes;
      const Floats scale = load(panels[v / kPanelVectors].scales + at);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Floats product = __builtin_convertvector(dots[m][v], Floats) * scale;
        totals[m][v] = multiply_add(product, splat(rows[m]->scales[b / kParts]), totals[m][v]);
      }
      if constexpr (kKind.minima) {
        const Floats minimum = load(panels[v / kPanelVectors].minima + at);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          totals[m][v] = multiply_add(minimum, splat(sum_of<kKind.half_blocks>(*rows[m], b)), totals[m][v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(sums + m * kSumStride + v * kLanes, totals[m][v]);
  }
}

// So many rows meet a weight straight from its packed form: measured.
template <DType kType>
constexpr int kDirectRows =
    FRSPEC_PAIRS && !Format<kType>::kHalfBlocks && !Format<kType>::kTable && kType != DType::Q5_K ? 4 : 1;

// M rows, as int8_tile would, but straight from the packed form: with few to share it, unpacking to memory and reading
// it again would cost more than the product. It reads in the order of memory, which is what a single row waits for.
// kFine: the second terms of the blocks that have them, of a single row.
template <DType kType, int kPanels, int M, bool kFine = false>
void int8_rows(const std::byte* const* groups, const std::byte* x, std::int64_t row_stride, std::int64_t blocks,
               float* sums, const Ahead& ahead) {
  static_assert(M == 1 || !kFine);
  using F = Format<kType>;
  using D = Dots<tile_kind<kType>()>;
  constexpr int kParts = F::kHalfBlocks ? 2 : 1;
  constexpr int kSteps = kBlockSteps / kParts;
  constexpr int V = FRSPEC_PAIRS && !F::kHalfBlocks ? kPanelVectors : 1;  // vectors of outputs at once
  const ActivationGroup* rows[M];
  const ActivationCodes* codes[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    rows[m] = reinterpret_cast<const ActivationGroup*>(x + m * row_stride);
    codes[m] = kFine ? &rows[m]->fine : &rows[m]->main;
  }
  const GroupLayout layout = group_layout(kType, blocks);
  for (int i = 0; i < kPanel; i += V * kLanes) {
    for (int p = 0; p < kPanels; ++p) {
      GroupScales<kType> of[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) of[v] = GroupScales<kType>(groups[p], blocks, i + v * kLanes);
      const std::byte *quants = groups[p] + layout.quants, *high = groups[p] + layout.high;
      float* to = sums + p * kPanel + i;
      Floats totals[M][V];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) totals[m][v] = load(to + m * kSumStride + v * kLanes);
      }
      for_each_block<kType>(blocks, [&]<int kBlock>(std::int64_t b) FRSPEC_INLINED {
        if (kFine && (rows[0]->spikes >> b & 1u) == 0) return;
        if (!kFine && i == 0) ahead.fetch(p * blocks + b);
        const Floats first = splat(kFine ? rows[0]->scales[b] * kFineStep : rows[0]->scales[b]);
        unrolled<kParts>([&]<int kPart>() FRSPEC_INLINED {
          const std::int64_t scale = b * kParts + kPart;
          Ints dots[M][V], pairs[M][V];
#pragma GCC unroll 8
          for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) dots[m][v] = D::begin(*codes[m], scale);
          }
          unrolled<kSteps>([&]<int kStep>() FRSPEC_INLINED {
            constexpr int kAt = kPart * kSteps + kStep;
            Ints w[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
              w[v] = as_ints(codes_at<kType, kBlock, kAt>(quants, high, b, kAt, (i + v * kLanes) * 4));
            }
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) {
              const Ints four = splat_ints(word_at(codes[m]->codes + 4 * (b * kBlockSteps + kAt)));
#pragma GCC unroll 8
              for (int v = 0; v < V; ++v) D::template add<kStep>(dots[m][v], pairs[m][v], w[v], four);
            }
          });
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) {
            const Floats of_weights = of[v].scale(scale);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) {
              const Floats unit = m == 0 ? first : splat(rows[m]->scales[b]);
              Floats& total = totals[m][v];
              total = multiply_add(__builtin_convertvector(dots[m][v], Floats) * of_weights, unit, total);
              // The sums of whole blocks have the second terms in them.
              if constexpr (F::kMinima && F::kHalfBlocks && kFine) {
                const Floats rest = unit * (static_cast<float>(codes[m]->offset16[scale]) * (-1.0f / 128.0f));
                total = multiply_add(of[v].minimum(scale), rest, total);
              } else if constexpr (F::kMinima && !kFine) {
                total = multiply_add(of[v].minimum(scale), splat(sum_of<F::kHalfBlocks>(*rows[m], scale)), total);
              }
            }
          }
        });
      });
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(to + m * kSumStride + v * kLanes, totals[m][v]);
      }
    }
  }
}

// The second terms of a group, for each row that has some.
template <DType kType, int kPanels>
void int8_spikes(const std::byte* const* now, std::int64_t blocks, const Activations& x, float* sums) {
  for (std::int64_t m = 0; m < x.rows; ++m) {
    const auto& row = *reinterpret_cast<const ActivationGroup*>(x.data + m * x.row_stride);
    if (row.spikes == 0) continue;
    int8_rows<kType, kPanels, 1, true>(now, x.data + m * x.row_stride, 0, blocks, sums + m * kSumStride, {});
  }
}

constexpr std::int64_t kStepsPerPiece = 16;

// `steps` lines of panels that are 64 bytes apart; `Step` adds what one line and 4 bytes of x give to a sum.
template <class Step, int M, int V>
void float_tile(const std::byte* const* panels, const std::byte* x, std::int64_t row_stride, std::int64_t steps,
                float* sums, const Ahead& ahead) {
  Floats totals[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) totals[m][v] = load(sums + m * kSumStride + v * kLanes);
  }
  for (std::int64_t s = 0; s < steps; ++s) {
    if (s % kStepsPerPiece == 0) ahead.fetch(s / kStepsPerPiece);
    Ints w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      w[v] = load_ints(panels[v / kPanelVectors] + s * kLine + v % kPanelVectors * static_cast<int>(sizeof(Ints)));
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      std::int32_t word;
      __builtin_memcpy(&word, x + m * row_stride + 4 * s, sizeof word);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) totals[m][v] = Step::add(totals[m][v], w[v], splat_ints(word));
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(sums + m * kSumStride + v * kLanes, totals[m][v]);
  }
}

inline Floats as_floats(Ints v) {
  Floats f;
  __builtin_memcpy(&f, &v, sizeof f);
  return f;
}

struct F32Step {
  static Floats add(Floats sum, Ints w, Ints x) { return multiply_add(as_floats(w), as_floats(x), sum); }
};

#if FRSPEC_BF16
struct Bf16Step {
  static Floats add(Floats sum, Ints w, Ints x) { return dot_bf16(sum, w, x); }
};
#else
using Bf16Step = F32Step;  // of weights widened to f32
#endif

// Splits `rows` rows into tiles of nearly equal height, at most kMost, and calls tile.operator()<M>(first row).
template <int M, class Tile>
inline void call_tile(int rows, std::int64_t first, const Ahead& ahead, Tile&& tile) {
  if constexpr (M > 0) {
    if (rows == M) {
      tile.template operator()<M>(first, ahead);
    } else {
      call_tile<M - 1>(rows, first, ahead, tile);
    }
  }
}

// `lines` lines from `next` on are fetched meanwhile; a tile has `pieces` pieces.
template <int kMost = kTileRows, class Tile>
inline void for_each_tile(std::int64_t rows, const std::byte* next, std::int64_t lines, std::int64_t pieces,
                          Tile&& tile) {
  const std::int64_t count = (rows + kMost - 1) / kMost;
  // Rounded up: the last tiles may fetch a little of what comes after.
  const std::int64_t per_piece = (lines + count * pieces - 1) / (count * pieces);
  std::int64_t first = 0;
  for (std::int64_t t = 0; t < count; ++t) {
    const std::int64_t last = (t + 1) * rows / count;
    const Ahead ahead{next + t * pieces * per_piece * kLine, per_piece};
    call_tile<kMost>(static_cast<int>(last - first), first, ahead, tile);
    first = last;
  }
}

// --- A block of rows times one or two panels ---

// How the scratch of a product is divided.
struct ProductScratch {
  explicit ProductScratch(std::byte* memory)
      : sums(reinterpret_cast<float*>(memory)),
        scales(sums + kRowBlock * kSumStride),
        minima(scales + kPair * 16 * kPanel),
        codes(reinterpret_cast<std::byte*>(minima + kPair * 16 * kPanel)) {}

  float* sums;       // (kRowBlock, kSumStride)
  float* scales;     // (kPair, 16, 16)
  float* minima;     // (kPair, 16, 16)
  std::byte* codes;  // (kPair, kGroup / 4, line); as f32 (kPair, kGroup, line)
};
static_assert(sizeof(float) * (kRowBlock * kSumStride + kPair * 32 * kPanel) + kPair * kGroup * kLine <=
              kProductScratch);

#if FRSPEC_AMX
#include "cpu/multiply_amx.inl"
#endif

// All rows times panels of a group.
template <TileKind kKind, int kPanels>
void int8_tiles(const Unpacked* panels, const Activations& x, std::int64_t blocks, float* sums, const std::byte* next,
                std::int64_t lines) {
  // A sum of pairs that is widened once a block needs no second register.
  constexpr int kMost = kKind.fit == kBlockSteps ? kPairRows : kTileRows;
  for_each_tile<kMost>(x.rows, next, lines, kGroup / 32, [&]<int M>(std::int64_t m, const Ahead& part) {
    int8_tile<kKind, M, kPanels * kPanelVectors>(panels, x.data + m * x.row_stride, x.row_stride, blocks,
                                                 sums + m * kSumStride, part);
  });
}

// One group of one or two panels that lie at `now`; `next` is only fetched.
template <DType kType, int kPanels>
void int8_group(const std::byte* const* now, const std::byte* next, std::int64_t blocks, const Activations& x,
                const ProductScratch& scratch) {
#if FRSPEC_AMX
  matrix_int8_group<kType, kPanels>(now, next, blocks, x, scratch);
#else
  constexpr std::int64_t kFull = kGroup / 32;
  const std::int64_t lines = kPanels * group_layout(kType, kFull).bytes / kLine;
  if (x.rows <= kDirectRows<kType>) {
    const Ahead ahead{next, (lines + kPanels * kFull - 1) / (kPanels * kFull)};
    call_tile<kDirectRows<kType>>(static_cast<int>(x.rows), 0, ahead, [&]<int M>(std::int64_t, const Ahead& all) {
      int8_rows<kType, kPanels, M>(now, x.data, x.row_stride, blocks, scratch.sums, all);
    });
  } else {
    Unpacked panels[kPanels];
    for (int i = 0; i < kPanels; ++i) {
      panels[i] = unpack_group<kType>(now[i], blocks, scratch.codes + i * (kGroup / 4) * kLine,
                                      scratch.scales + i * 16 * kPanel, scratch.minima + i * 16 * kPanel);
    }
    int8_tiles<tile_kind<kType>(), kPanels>(panels, x, blocks, scratch.sums, next, lines);
  }
#endif
  int8_spikes<kType, kPanels>(now, blocks, x, scratch.sums);
}

// Lines of F16 or BF16 to lines of f32, two for one.
template <DType kType>
inline void widen(std::byte* to, const std::byte* lines, std::int64_t count) {
  for (std::int64_t s = 0; s < count; ++s) {
    for (int at = 0; at < kLine; at += static_cast<int>(sizeof(Ints))) {
      const Ints pair = load_ints(lines + s * kLine + at);
      Floats even, odd;
      if constexpr (kType == DType::F16) {
        even = low_half(pair);
        odd = low_half(pair >> 16);
      } else {
        even = as_floats(pair << 16);
        odd = as_floats(pair & static_cast<std::int32_t>(0xFFFF0000u));
      }
      store(reinterpret_cast<float*>(to + 2 * s * kLine + at), even);
      store(reinterpret_cast<float*>(to + (2 * s + 1) * kLine + at), odd);
    }
  }
}

template <DType kType, class Step, int kPanels>
void float_group(const std::byte* const* now, const std::byte* next, std::int64_t lines, const Activations& x,
                 const ProductScratch& scratch) {
  constexpr bool kWiden = kType != DType::F32 && std::is_same_v<Step, F32Step>;
  const std::byte* panels[kPanels];
  for (int i = 0; i < kPanels; ++i) {
    panels[i] = now[i];
    if constexpr (kWiden) {
      std::byte* wide = scratch.codes + i * kGroup * kLine;
      widen<kType>(wide, panels[i], lines);
      panels[i] = wide;
    }
  }
  const std::int64_t steps = kWiden ? 2 * lines : lines;
  for_each_tile(x.rows, next, kPanels * kGroup / elements_per_line(kType),
                (steps + kStepsPerPiece - 1) / kStepsPerPiece, [&]<int M>(std::int64_t m, const Ahead& part) {
                  float_tile<Step, M, kPanels * kPanelVectors>(panels, x.data + m * x.row_stride, x.row_stride, steps,
                                                               scratch.sums + m * kSumStride, part);
                });
}

// Group after group, and for each pair after pair, so that x's part of a group is brought into cache once.
template <DType kType, int kPanels>
void multiply_groups(const PanelProduct& p, const Activations& x, const ProductScratch& scratch) {
  constexpr std::int64_t kPerLine = elements_per_line(kType);
  const std::int64_t groups = group_count(p.cols);
  // Where a group takes long and memory is still what is waited for, fetching begins a group earlier: measured.
  const bool early = kPerLine == 0 && (x.rows == 1 ? Format<kType>::kSuper : x.rows <= kMatrixRows);
  const std::int64_t distance = early ? 2 : 1;
  // An odd last panel is multiplied twice and its second result dropped: that is rare, and saves compiling every
  // product for single panels, too.
  const auto place = [&](int at, std::int64_t g) {
    const int panel = at < p.panel_count ? at : p.panel_count - 1;
    return p.pairs[panel / kPair] + group_offset(kType, p.cols, place_of(panel, p.panel_count), g);
  };
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t left = p.cols - g * kGroup, elements = left < kGroup ? left : kGroup;
    Activations rows = x;
    rows.data += g * x.group_stride;
    for (int first = 0; first < p.panel_count; first += kPanels) {
      const std::byte* now[kPair] = {};
      for (int i = 0; i < kPanels; ++i) now[i] = place(first + i, g);
      const std::int64_t later = g + distance;
      const std::byte* next = first + kPanels < p.panel_count ? place(first + kPanels, g)
                              : later < groups ? place(0, later)
                                               : p.next + (later - groups) * kPair * group_bytes(kType, kGroup, 0);
      ProductScratch part = scratch;
      part.sums += first * kPanel;
      if constexpr (kPerLine == 0) {
        int8_group<kType, kPanels>(now, next, elements / 32, rows, part);
      } else {
        const std::int64_t lines = (elements + kPerLine - 1) / kPerLine;
#if FRSPEC_AMX
        if constexpr (kType == DType::BF16) {
          matrix_bf16_group<kPanels>(now, next, lines, rows, part);
          continue;
        }
#endif
        float_group<kType, std::conditional_t<kType == DType::BF16, Bf16Step, F32Step>, kPanels>(now, next, lines, rows,
                                                                                                 part);
      }
    }
  }
}

void multiply_block(const PanelProduct& p, const Activations& x, const ProductScratch& scratch) {
  switch (p.type) {
#define FRSPEC_CASE(name)                                                                               \
  case DType::name:                                                                                     \
    if constexpr (is_own(DType::name)) return multiply_groups<DType::name, kTilePanels>(p, x, scratch); \
    break;
    FRSPEC_FLOAT_TYPES(FRSPEC_CASE)
    FRSPEC_BLOCK_TYPES(FRSPEC_CASE)
    FRSPEC_CASE(Coded)
#undef FRSPEC_CASE
    default:
      break;
  }
  __builtin_unreachable();  // nothing else is packed, or comes here
}

void store_sums(const PanelProduct& p, std::int64_t first, std::int64_t rows, const float* sums) {
  for (std::int64_t m = 0; m < rows; ++m, sums += kSumStride) {
    float* out = p.out + (first + m) * p.out_stride;
    int n = 0;
    for (; n + kLanes <= p.n_count; n += kLanes) {
      Floats total = load(sums + n);
      if (p.bias != nullptr) total += load(p.bias + n);
      if (p.accumulate) total += load(out + n);
      store(out + n, total);
    }
    for (; n < p.n_count; ++n) {
      float total = sums[n];
      if (p.bias != nullptr) total += p.bias[n];
      if (p.accumulate) total += out[n];
      out[n] = total;
    }
  }
}

void multiply(const PanelProduct& p) {
#ifdef FRSPEC_BASE
  if (!is_own(p.type)) return FRSPEC_BASE().multiply(p);
#endif
  const ProductScratch scratch(p.scratch);
  const int panels = (p.panel_count + kTilePanels - 1) / kTilePanels * kTilePanels;
  const auto width = static_cast<std::size_t>(panels) * kPanel * sizeof(float);
  for (std::int64_t first = 0; first < p.x.rows; first += kRowBlock) {
    Activations x = p.x;
    x.data += first * x.row_stride;
    x.rows = p.x.rows - first < kRowBlock ? p.x.rows - first : kRowBlock;
#if FRSPEC_AMX
    if (p.type != DType::BF16 && x.rows < kMatrixRows) {
      PanelProduct rest = p;
      rest.x = x;
      rest.out += first * p.out_stride;
      return FRSPEC_BASE().multiply(rest);
    }
#endif
    for (std::int64_t m = 0; m < x.rows; ++m) {
      __builtin_memset(scratch.sums + m * kSumStride, 0, width);
      const float* out = p.out + (first + m) * p.out_stride;
      for (int n = 0; n < p.n_count; n += kPanel) __builtin_prefetch(out + n, 1, 3);
    }
    multiply_block(p, x, scratch);
    store_sums(p, first, x.rows, scratch.sums);
  }
}

Form form(DType type) {
  switch (type) {
    case DType::F32:
    case DType::F16:
      return Form::F32;
    case DType::BF16:
      return FRSPEC_BF16 ? Form::Bf16 : Form::F32;
    default:
      return Form::Int8;  // quantized
  }
}

}  // namespace
