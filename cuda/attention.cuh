// Pieces of attention.cu: what a block keeps in shared memory, and the steps of a unit. A block has 128 threads.
#pragma once

#include <cmath>

#include "cuda/device/activation.cuh"
#include "cuda/device/block.cuh"
#include "cuda/device/copy_async.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/numbers.cuh"
#include "cuda/kv_cache.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

constexpr int kThreads = 128;
constexpr int kSegment = 8;  // units
constexpr float kLowest = -1e30f;
constexpr int kScoreStride = kUnit + 8;  // floats from line to line
constexpr int kWeightStride = kUnit + 8;

struct Attention {
  Tensor out;
  Tensor q;
  KvLayer cache;
  Rows rows;  // of one sequence; of this launch: `count` rows from first_row on of what the pointers point to
  int first_row = 0;
  int group = 0;  // query heads that share a K/V head; line = row * group + query head in the group
  AttentionRule rule;
  bool chain = false;
  int tiles = 0;          // of lines
  int own_items = 0;      // a row's own units, at most, times rows, K/V heads and slices of 16 of the group
  int most_units = 0;     // of the sequence: its pages
  int many_segments = 0;  // from so many segments on, a span is a segment; below, a unit
  int join_warps = 0;
  bool aligned = false;  // `out`, to 16 bytes
  std::int64_t common_parts =
      0;                   // room for (spans, heads, lines); behind them the own units': (own units, heads, lines)
  float* parts = nullptr;  // (parts, padded head)
  float* stats = nullptr;  // (parts, 2): m and l
};

// Elements of a head as the tensor cores see them.
__host__ __device__ constexpr int padded(int head_dim) { return (head_dim + 15) / 16 * 16; }

// How the common units are shared out: both kernels have to say the same.
struct Plan {
  int prefix;
  int units_per_span;
  int spans;
};

// Whole units that a row shares with others: of a chain all, else those of the prefix.
__device__ inline int common_units(const Attention& a, int prefix, int row) {
  const int units = (a.chain ? prefix + a.first_row + row + 1 : prefix) / kUnit;
  return units < a.most_units ? units : a.most_units;
}

__device__ inline Plan plan_of(const Attention& a) {
  Plan plan;
  plan.prefix = *a.rows.sequence.length;
  const int units = common_units(a, plan.prefix, a.rows.count - 1);
  const int segments = (units + kSegment - 1) / kSegment;
  const bool by_segment = segments > a.many_segments;
  plan.units_per_span = by_segment ? kSegment : 1;
  plan.spans = by_segment ? segments : units;
  return plan;
}

// The first position that a row sees.
__device__ inline int first_seen(const Attention& a, int prefix, int row) {
  const int length = prefix + depth_of(a.rows, a.first_row + row) + 1;
  return a.rule.window > 0 && length > a.rule.window ? length - a.rule.window : 0;
}

// --- Folding ---

// Factors of what was there and of what comes; keep < 0: nothing was there; add < 0: nothing comes.
struct Factors {
  float keep;
  float add;
};

// Adds (m, l) to the running maximum and total, which is negative as long as there is nothing.
__device__ inline Factors merge(float& maximum, float& total, float m, float l) {
  if (l < 0.0f) return {1.0f, -1.0f};
  if (total < 0.0f) {
    maximum = m;
    total = l;
    return {-1.0f, 1.0f};
  }
  const float top = m > maximum ? m : maximum;
  const Factors f{std::exp(maximum - top), std::exp(m - top)};
  total = total * f.keep + l * f.add;
  maximum = top;
  return f;
}

__device__ inline float merged(float value, float other, const Factors& f) {
  if (f.add < 0.0f) return value;
  if (f.keep < 0.0f) return other;
  return value * f.keep + other * f.add;
}

// --- Shared memory ---

struct Room {
  std::uint16_t *q, *k, *v;  // (lines, stride), (unit, stride) each; k and v are one tile where codes are unpacked
  std::uint16_t* weights;    // (lines, kWeightStride)
  float* scores;             // (lines, kScoreStride)
  float *maxima, *totals;    // (lines) of the span so far
  Factors* factors;          // (lines) of the unit
  std::int32_t* units;       // (lines) below which units are the line's
  std::int32_t* firsts;      // (lines) positions, from which on the line sees
  std::byte *raw_k, *raw_v;  // Q8_0: (unit, head_dim) codes, then (unit, blocks) scales
  int width;                 // padded head
  int stride;                // an odd number of 16 bytes
};

constexpr std::int64_t raw_bytes(const KvShape& shape) {
  return shape.type == KvType::F16 ? 0 : kUnit * (shape.head_dim + 2 * (shape.head_dim / kKvBlock));
}

__device__ inline Room take_room(SharedMemory& shared, const KvShape& shape, int lines) {
  Room room;
  room.width = padded(shape.head_dim);
  room.stride = room.width + 8;
  room.q = shared.take<std::uint16_t>(lines * room.stride);
  room.k = shared.take<std::uint16_t>(kUnit * room.stride);
  // Codes wait in rooms of their own and are unpacked just before they are multiplied, so one tile does for both.
  room.v = shape.type == KvType::F16 ? shared.take<std::uint16_t>(kUnit * room.stride) : room.k;
  room.weights = shared.take<std::uint16_t>(lines * kWeightStride);
  room.scores = shared.take<float>(lines * kScoreStride);
  room.maxima = shared.take<float>(lines);
  room.totals = shared.take<float>(lines);
  room.factors = shared.take<Factors>(lines);
  room.units = shared.take<std::int32_t>(lines);
  room.firsts = shared.take<std::int32_t>(lines);
  const auto raw = static_cast<int>(raw_bytes(shape));
  room.raw_k = shared.take<std::byte>(raw);
  room.raw_v = shared.take<std::byte>(raw);
  return room;
}

constexpr std::size_t room_bytes(const KvShape& shape, int lines) {
  const int stride = padded(shape.head_dim) + 8, tiles = shape.type == KvType::F16 ? 2 : 1;
  return shared_bytes<std::uint16_t>(lines * stride) + tiles * shared_bytes<std::uint16_t>(kUnit * stride) +
         shared_bytes<std::uint16_t>(lines * kWeightStride) + shared_bytes<float>(lines * kScoreStride) +
         2 * shared_bytes<float>(lines) + shared_bytes<Factors>(lines) + 2 * shared_bytes<std::int32_t>(lines) +
         2 * shared_bytes<std::byte>(raw_bytes(shape));
}

// --- Bringing in ---

// Queries of `count` lines, scaled, as f16; zeros for lines and elements that are not there.
template <int kTiles>
__device__ inline void load_queries(const Attention& a, const Room& room, int head, int first_line, int count) {
  const int head_dim = a.cache.shape.head_dim;
  for (int i = warp(); i < 16 * kTiles; i += kThreads / kWarp) {
    const int line = first_line + i;
    const float* q = a.q.row(a.first_row + line / a.group) + (std::int64_t{head} * a.group + line % a.group) * head_dim;
    for (int d = lane(); d < room.width; d += kWarp) {
      room.q[i * room.stride + d] = i < count && d < head_dim ? float_to_half(q[d] * a.rule.scale) : std::uint16_t{0};
    }
  }
}

// Where logical positions lie: in whole units that all rows share, and along a row's path (null: a chain).
struct InOrder {
  static constexpr bool kInOrder = true;
  const std::int32_t* pages;
  __device__ std::int64_t operator()(int position) const { return slot_of(pages, position); }
};
struct AlongPath {
  static constexpr bool kInOrder = false;
  const std::int32_t* pages;
  const std::int32_t* path;
  int prefix;
  __device__ std::int64_t operator()(int position) const {
    return slot_of(pages, path == nullptr || position < prefix ? position : prefix + path[position - prefix]);
  }
};

// Begins to copy `count` rows from the logical position `first` on: into the tile, or as they are where they must be
// unpacked.
template <class SlotOf>
__device__ inline void stage(const Room& room, std::uint16_t* tile, std::byte* raw, const KvHead& from, int count,
                             int first, const SlotOf& slot_of) {
  const bool halves = from.scales == nullptr;
  const int pieces = from.row_bytes / 16, to_bytes = halves ? 2 * room.stride : from.row_bytes;
  std::byte* to = halves ? reinterpret_cast<std::byte*>(tile) : raw;
  const int rows_apart = kThreads / pieces, pieces_apart = kThreads % pieces;
  int row = thread() / pieces, piece = thread() % pieces;
  const std::int64_t base = slot_of(first);
  while (row < count) {
    const std::int64_t slot = SlotOf::kInOrder ? base + row : slot_of(first + row);
    copy_async_16(to + row * to_bytes + 16 * piece, from.codes + slot * from.row_bytes + 16 * piece);
    row += rows_apart;
    piece += pieces_apart;
    if (piece >= pieces) {
      piece -= pieces;
      ++row;
    }
  }
  if (halves) return;
  std::byte* scales = raw + kUnit * from.row_bytes;
  if constexpr (SlotOf::kInOrder) {  // whole units: their scales are whole pieces in a row
    const auto* source = reinterpret_cast<const std::byte*>(from.scales + base * from.blocks);
    for (int i = 16 * thread(); i < kUnit * from.blocks * 2; i += 16 * kThreads) copy_async_16(scales + i, source + i);
  } else {
    for (int i = thread(); i < count * from.blocks; i += kThreads) {
      reinterpret_cast<std::uint16_t*>(scales)[i] =
          from.scales[slot_of(first + i / from.blocks) * from.blocks + i % from.blocks];
    }
  }
}

// Two codes, in bytes 0 and 1 of a word, as halves: exactly 1024 + 128 + code, less 1152.
__device__ inline std::uint32_t codes_to_halves(std::uint32_t two) {
  return half2_sub(((two & 0xFFu) | ((two & 0xFF00u) << 8)) ^ 0x64806480u, 0x64806480u);
}

// f16(scale * code) of rows that were staged.
__device__ inline void unpack(const Room& room, std::uint16_t* tile, const std::byte* raw, const KvHead& from,
                              int count) {
  const int pieces = from.row_bytes / 16;
  const auto* scales = reinterpret_cast<const std::uint16_t*>(raw + kUnit * from.row_bytes);
  for (int i = thread(); i < count * pieces; i += kThreads) {
    const int row = i / pieces, piece = i % pieces;
    const Words4 codes = load_as<Words4>(raw + row * from.row_bytes + 16 * piece);
    const std::uint16_t scale = scales[row * from.blocks + piece / 2];
    const std::uint32_t both = pack_halves(scale, scale);
    std::uint16_t* to = tile + row * room.stride + 16 * piece;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Words4 words;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const std::uint32_t two = codes.word[2 * half + w / 2] >> (w % 2 * 16);
        words.word[w] = half2_mul(both, codes_to_halves(two & 0xFFFFu));
      }
      store_as(to + 8 * half, words);
    }
  }
}

// --- A unit ---

// Scores of all lines. A warp has 16 of the keys.
template <int kTiles>
__device__ inline void multiply_keys(const Room& room, int seen) {
  const int key = 16 * warp();
  if (key >= seen) return;  // the whole warp
  float d[kTiles][2][4] = {};
#pragma unroll 2
  for (int k = 0; k < room.width; k += 16) {
    std::uint32_t b[4];
    load_tile(b, room.k + key * room.stride + k, room.stride);
    const std::uint32_t low[2] = {b[0], b[2]}, high[2] = {b[1], b[3]};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      std::uint32_t q[4];
      load_tile(q, room.q + 16 * tile * room.stride + k, room.stride);
      mma_f16(d[tile][0], q, low);
      mma_f16(d[tile][1], q, high);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int line = 16 * tile + lane() / 4 + i % 4 / 2 * 8;
      room.scores[line * kScoreStride + key + i / 4 * 8 + lane() % 4 * 2 + i % 2] = d[tile][i / 4][i % 4];
    }
  }
}

// Scores to weights, and the unit's (m, l) into those of the span. 8 / kTiles threads have a line, each 8 kTiles keys.
// The sum: eight keys in order, then eights by twos, fours and all. A unit before the line's window comes to nothing.
template <int kTiles>
__device__ inline void soften(const Room& room, int unit, int seen, float cap) {
  constexpr int kPerLine = 8 / kTiles, kKeys = 8 * kTiles;
  const int line = thread() / kPerLine, part = thread() % kPerLine;
  const float* scores = room.scores + line * kScoreStride + part * kKeys;
  const int first = room.firsts[line] - unit * kUnit;  // key of the unit
  float x[kKeys];
  float m = kLowest;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    x[i] = cap > 0.0f ? soft_capped(scores[i], cap) : scores[i];
    if (part * kKeys + i >= first && part * kKeys + i < seen && x[i] > m) m = x[i];
  }
#pragma unroll
  for (int mask = 1; mask < kPerLine; mask *= 2) {
    const float other = shuffle_xor(m, mask);
    m = other > m ? other : m;
  }
  float sums[kTiles] = {};
#pragma unroll
  for (int i = 0; i < kKeys; i += 8) {
    Words4 words;
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      std::uint16_t half[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = i + j + h;
        const int key = part * kKeys + at;
        half[h] = key >= first && key < seen ? float_to_half(std::exp(x[at] - m)) : std::uint16_t{0};
        sums[i / 8] += half_to_float(half[h]);
      }
      words.word[j / 2] = pack_halves(half[0], half[1]);
    }
    store_as(room.weights + line * kWeightStride + part * kKeys + i, words);
  }
#pragma unroll
  for (int apart = 1; apart < kTiles; apart *= 2) {
#pragma unroll
    for (int i = 0; i < kTiles; i += 2 * apart) sums[i] += sums[i + apart];
  }
  float l = sums[0];
#pragma unroll
  for (int mask = 1; mask < kPerLine; mask *= 2) l += shuffle_xor(l, mask);
  if (part != 0) return;
  float maximum = room.maxima[line], total = room.totals[line];
  room.factors[line] = merge(maximum, total, m, unit < room.units[line] && first < seen ? l : -1.0f);
  room.maxima[line] = maximum;
  room.totals[line] = total;
}

// Of the span so far: lines by tile, columns of the warp by eights, as mma has them. A warp has 16 kColumns elements of
// the head.
template <int kTiles, int kColumns>
struct Sums {
  float d[kTiles][2 * kColumns][4];
};

template <int kTiles, int kColumns>
__device__ inline void multiply_values(const Room& room, int seen, Sums<kTiles, kColumns>& sums) {
  float d[kTiles][2 * kColumns][4] = {};
  const int first = 16 * kColumns * warp();
#pragma unroll 1
  for (int key = 0; key < seen; key += 16) {
    std::uint32_t weights[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      load_tile(weights[tile], room.weights + 16 * tile * kWeightStride + key, kWeightStride);
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (first + 16 * c >= room.width) continue;
      std::uint32_t b[4];
      load_tile_transposed(b, room.v + key * room.stride + first + 16 * c, room.stride);
      const std::uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        mma_f16(d[tile][2 * c], weights[tile], low);
        mma_f16(d[tile][2 * c + 1], weights[tile], high);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const Factors f = room.factors[16 * tile + lane() / 4 + 8 * side];
#pragma unroll
      for (int c = 0; c < 2 * kColumns; ++c) {
#pragma unroll
        for (int i = 2 * side; i < 2 * side + 2; ++i) sums.d[tile][c][i] = merged(sums.d[tile][c][i], d[tile][c][i], f);
      }
    }
  }
}

// Lines that have unit `first`, as parts from `part` on.
template <int kTiles, int kColumns>
__device__ inline void write_sums(const Attention& a, const Room& room, const Sums<kTiles, kColumns>& sums,
                                  std::int64_t part, int first) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int line = 16 * tile + lane() / 4 + 8 * side;
      if (room.units[line] <= first) continue;
      float* to = a.parts + (part + line) * room.width;
#pragma unroll
      for (int c = 0; c < 2 * kColumns; ++c) {
        const int d = 16 * kColumns * warp() + 8 * c + lane() % 4 * 2;
        if (d >= room.width) continue;
        store_as(to + d, Floats2{{sums.d[tile][c][2 * side], sums.d[tile][c][2 * side + 1]}});
      }
    }
  }
  for (int line = thread(); line < 16 * kTiles; line += kThreads) {
    if (room.units[line] <= first) continue;
    a.stats[2 * (part + line)] = room.maxima[line];
    a.stats[2 * (part + line) + 1] = room.totals[line];
  }
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
