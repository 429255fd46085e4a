// CUDA backend: attention of a few rows over their logical sequences.
//
// What is computed, for each row and query head. The logical positions 0, 1, ... are cut into units of 64 keys, units
// into segments of 8, both at absolute positions.
//   Of a unit: scores = q K^T, q being f16(q scale), by mma over the head's elements in order; m = the largest score
//   (of
//     -1e30 and those of the keys that are there); weights = f16(exp(score - m)), 0 for keys that are not there; l =
//     the sum of the weights in one fixed order; the result = weights V by mma, over the keys in order.
//   Keys and values are what the cache holds: f16, or of Q8_0 f16(scale * code). Everything else is f32.
//   (m, l, result) of a segment is the fold of its units in order, that of the row the fold of its segments.
//   Scores may be soft-capped. Keys before a row's window get the weight 0; a unit of nothing else leaves the fold as
//   it was. A sink is what the row's fold begins with: m is it, l is 1.
// Nothing of that depends on who computes it, where keys lie, or who else is there, so it is shared out as it suits:
//   - Units that are common, which is to say in the same slots for all rows and wholly seen: those in the prefix; of a
//     chain, all whole ones. A block brings in a unit's keys and values once for up to 64 lines (line = row and query
//     head of the group that shares a K/V head). It works on a segment of units, or on a single one where there would
//     be too few segments to keep the device busy.
//   - A row's own units, the last one in most cases: for each row alone, gathered along its path. Where keys are not
//     there, the values are zeros; where sixteen are not there, nothing is computed. So every product has the same
//     operands as in plain decoding, and no row ever meets what another one must not see, finite or not.
// Both are work for one launch, `attend_parts`: numbered items, a fixed grid whose blocks stride over them, because how
// long the prefix is only the device knows. Its results go through scratch memory to a second launch, `attend_join`.
//
// Memory of attend_parts. Reads: keys and values by cp.async, 16 bytes per thread, neighbouring threads neighbouring
// pieces of a row, and rows of a unit are contiguous (of a row's own unit, single rows of a head). While a unit's
// scores are computed its values are on their way, while values are multiplied the next keys are: about 16 KB in flight
// per block at 128 elements, and 2 to 4 blocks on a multiprocessor. The prefix is read once per 64 lines, so once in
// all for 16 rows with 4 query heads per K/V head; further tiles of lines are neighbours in the order of items and find
// it in L2. Queries: once per item, 4 bytes per thread in a row. Writes: results of each part, 8 bytes per thread, 32
// bytes in a row. At 128 elements these are 0.5 KB per line and part, beside 256 KB that a segment of keys and values
// takes. In shared memory, rows are an odd number of 16 bytes apart, so that ldmatrix meets no bank conflicts.
// attend_join: reads every part once, 16 bytes per lane, eight parts in flight, and writes the rows of `out` the same
// way.
#include <algorithm>
#include <climits>
#include <cmath>

#include "cuda/attention.cuh"
#include "cuda/cuda_backend.h"
#include "cuda/device/block.cuh"
#include "cuda/device/memory.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

// --- Parts ---

// Units [first, last), of which `seen` keys are there; the lines' results go to registers, their m and l to shared
// memory. The slot of position p is slot_of(p).
template <int kTiles, int kColumns, class SlotOf>
__device__ inline void run_units(const Attention& a, const Room& room, int head, int first, int last, int seen,
                                 Sums<kTiles, kColumns>& sums, const SlotOf& slot_of) {
  const KvHead keys = kv_head(a.cache.keys, a.cache.shape, head), values = kv_head(a.cache.values, a.cache.shape, head);
  stage(room, room.k, room.raw_k, keys, seen, first * kUnit, slot_of);
  copy_commit();
  stage(room, room.v, room.raw_v, values, seen, first * kUnit, slot_of);
  copy_commit();
  for (int unit = first; unit < last; ++unit) {
    copy_wait<1>();
    block_sync();  // the keys are there, and the queries
    if (keys.scales != nullptr) {
      unpack(room, room.k, room.raw_k, keys, seen);
      block_sync();
    }
    multiply_keys<kTiles>(room, seen);
    block_sync();
    if (unit + 1 < last) stage(room, room.k, room.raw_k, keys, seen, (unit + 1) * kUnit, slot_of);
    copy_commit();
    soften<kTiles>(room, unit, seen, a.rule.cap);
    copy_wait<1>();
    block_sync();  // the values are there, and the weights
    if (values.scales != nullptr) {
      unpack(room, room.v, room.raw_v, values, seen);
      block_sync();
    }
    multiply_values<kTiles, kColumns>(room, seen, sums);
    block_sync();
    if (unit + 1 < last) stage(room, room.v, room.raw_v, values, seen, (unit + 1) * kUnit, slot_of);
    copy_commit();
  }
  copy_wait<0>();
}

// A span of common units, for a tile of lines.
template <int kTiles, int kColumns>
__device__ inline void attend_common(const Attention& a, const Room& room, const Plan& plan, int item) {
  const int lines = a.rows.count * a.group;
  const int tile = item % a.tiles, head = item / a.tiles % a.cache.shape.heads,
            span = item / a.tiles / a.cache.shape.heads;
  const int first_line = tile * 16 * kTiles;
  const int last_line = first_line + 16 * kTiles < lines ? first_line + 16 * kTiles : lines;
  const int first = span * plan.units_per_span;
  int last = common_units(a, plan.prefix, (last_line - 1) / a.group);
  if (last <= first) return;  // the whole block
  last = last < first + plan.units_per_span ? last : first + plan.units_per_span;
  // Units that lie before all windows.
  const int begin = a.rule.window > 0 ? (plan.prefix + 1 - a.rule.window) / kUnit : 0;

  block_sync();  // the room is free
  for (int i = thread(); i < 16 * kTiles; i += kThreads) {
    room.units[i] = first_line + i < lines ? common_units(a, plan.prefix, (first_line + i) / a.group) : 0;
    room.firsts[i] = first_line + i < lines ? first_seen(a, plan.prefix, (first_line + i) / a.group) : 0;
    room.maxima[i] = 0.0f;
    room.totals[i] = -1.0f;
  }
  load_queries<kTiles>(a, room, head, first_line, last_line - first_line);
  Sums<kTiles, kColumns> sums = {};
  if (begin < last) {
    run_units(a, room, head, begin > first ? begin : first, last, kUnit, sums, InOrder{a.rows.sequence.pages});
  } else {
    block_sync();  // nothing is what the lines have
  }
  const std::int64_t part = (std::int64_t{span} * a.cache.shape.heads + head) * lines + first_line;
  write_sums<kTiles, kColumns>(a, room, sums, part, first);
}

// One of a row's own units, for up to 16 of its query heads in a group.
template <int kColumns>
__device__ inline void attend_own(const Attention& a, const Room& room, const Plan& plan, int item) {
  const int slices = (a.group + 15) / 16;
  const int slice = item % slices, head = item / slices % a.cache.shape.heads;
  const int own = item / slices / a.cache.shape.heads, row = own % a.rows.count, t = own / a.rows.count;
  const int unit = common_units(a, plan.prefix, row) + t;
  const int length = plan.prefix + depth_of(a.rows, a.first_row + row) + 1;
  const int seen = length - unit * kUnit < kUnit ? length - unit * kUnit : kUnit;
  if (seen <= 0) return;  // the whole block
  const int first_line = row * a.group + slice * 16, count = a.group - slice * 16 < 16 ? a.group - slice * 16 : 16;

  block_sync();  // the room is free
  for (int i = thread(); i < 16; i += kThreads) {
    room.units[i] = i < count ? INT_MAX : 0;
    room.firsts[i] = first_seen(a, plan.prefix, row);
    room.maxima[i] = 0.0f;
    room.totals[i] = -1.0f;
  }
  load_queries<1>(a, room, head, first_line, count);
  const int to = (seen + 15) / 16 * 16;
  for (int i = thread(); i < (to - seen) * (room.stride / 2); i += kThreads) {
    reinterpret_cast<std::uint32_t*>(room.v + seen * room.stride)[i] = 0;
  }
  const std::int32_t* path =
      a.rows.path != nullptr ? a.rows.path + std::int64_t{a.first_row + row} * a.rows.path_stride : nullptr;
  Sums<1, kColumns> sums = {};
  run_units(a, room, head, unit, unit + 1, seen, sums, AlongPath{a.rows.sequence.pages, path, plan.prefix});
  const std::int64_t part = (std::int64_t{t} * a.cache.shape.heads + head) * a.rows.count * a.group + first_line;
  write_sums<1, kColumns>(a, room, sums, a.common_parts + part, unit);
}

template <int kTiles, int kColumns>
__global__ void __launch_bounds__(kThreads, kTiles == 1 ? 4 : 2) attend_parts(Attention a) {
  SharedMemory shared;
  const Room room = take_room(shared, a.cache.shape, 16 * kTiles);
  const Plan plan = plan_of(a);
  // What no copy brings stays zero: elements behind a stored row.
  const int stored = kv_pitch(a.cache.shape.head_dim), pad = room.width - stored;
  for (int i = thread(); i < pad * kUnit; i += kThreads) {
    room.k[i / pad * room.stride + stored + i % pad] = 0;
    room.v[i / pad * room.stride + stored + i % pad] = 0;
  }
  const int common = plan.spans * a.cache.shape.heads * a.tiles;
  const int items = common + a.own_items;
  for (int item = block_x(); item < items; item += grid_x()) {
    if (item < common) {
      attend_common<kTiles, kColumns>(a, room, plan, item);
    } else {
      attend_own<kColumns>(a, room, plan, item - common);
    }
  }
}

// --- Joining ---

template <int kQuads>
struct Fold {
  float maximum = 0.0f;
  float total = -1.0f;  // nothing yet
  float result[4 * kQuads] = {};

  __device__ void add(const Fold& other) {
    const Factors f = merge(maximum, total, other.maximum, other.total);
#pragma unroll
    for (int i = 0; i < 4 * kQuads; ++i) result[i] = merged(result[i], other.result[i], f);
  }
  // Part `at` of the scratch memory; lane l has elements 4 l to 4 l + 3, and those 128 behind.
  __device__ void load(const Attention& a, std::int64_t at, int width) {
    maximum = a.stats[2 * at];
    total = a.stats[2 * at + 1];
#pragma unroll
    for (int j = 0; j < kQuads; ++j) {
      const int d = 4 * lane() + 128 * j;
      if (d >= width) continue;
      const Floats4 some = load_as<Floats4>(a.parts + at * width + d);
#pragma unroll
      for (int i = 0; i < 4; ++i) result[4 * j + i] = some.value[i];
    }
  }
};

// The units of segment s of a line, whose common units end at `common` and whose text ends with unit `end`.
template <int kQuads>
__device__ inline Fold<kQuads> fold_segment(const Attention& a, const Plan& plan, int s, int head, int line, int common,
                                            int end) {
  const int width = padded(a.cache.shape.head_dim), first = s * kSegment;
  const std::int64_t lines = std::int64_t{a.rows.count} * a.group, apart = lines * a.cache.shape.heads;
  const std::int64_t part = head * lines + line;
  Fold<kQuads> fold;
  if (plan.units_per_span == kSegment) {
    if (first < common) fold.load(a, s * apart + part, width);
  } else {
    Fold<kQuads> units[kSegment];
#pragma unroll
    for (int i = 0; i < kSegment; ++i) {
      if (first + i < common) units[i].load(a, (first + i) * apart + part, width);
    }
#pragma unroll
    for (int i = 0; i < kSegment; ++i) {
      if (first + i < common) fold.add(units[i]);
    }
  }
  for (int unit = first > common ? first : common; unit < first + kSegment && unit < end; ++unit) {
    Fold<kQuads> own;
    own.load(a, a.common_parts + (unit - common) * apart + part, width);
    fold.add(own);
  }
  return fold;
}

// `a.join_warps` warps for each line: they fold segments side by side, and the first one folds those in order.
template <int kQuads>
__global__ void __launch_bounds__(kThreads) attend_join(Attention a) {
  SharedMemory shared;
  auto* side = shared.take<Fold<kQuads>>(kThreads);
  const Plan plan = plan_of(a);
  const int heads = a.cache.shape.heads, head_dim = a.cache.shape.head_dim;
  const int group_of_warps = warp() / a.join_warps, rank = warp() % a.join_warps;
  const int number = block_x() * (warps() / a.join_warps) + group_of_warps;  // of the query head in the row
  const int row = block_y();
  const bool real = number < heads * a.group;
  const int head = real ? number / a.group : 0, line = row * a.group + (real ? number % a.group : 0);
  const int common = common_units(a, plan.prefix, row);
  const int length = plan.prefix + depth_of(a.rows, a.first_row + row) + 1;
  const int end = length > 0 ? (length + kUnit - 1) / kUnit : 0;
  const int segments = ((end > common ? end : common) + kSegment - 1) / kSegment;

  Fold<kQuads> total;
  if (a.rule.sinks != nullptr) {
    total.maximum = a.rule.sinks[real ? number : 0];
    total.total = 1.0f;
  }
  for (int first = 0; first < segments; first += a.join_warps) {
    Fold<kQuads> mine;
    if (real && first + rank < segments) mine = fold_segment<kQuads>(a, plan, first + rank, head, line, common, end);
    if (a.join_warps == 1) {
      total.add(mine);
      continue;
    }
    side[thread()] = mine;
    block_sync();
    for (int i = 0; rank == 0 && i < a.join_warps && first + i < segments; ++i) total.add(side[thread() + i * kWarp]);
    block_sync();
  }
  if (!real || rank != 0) return;
  float* out = a.out.row(a.first_row + row) + std::int64_t{number} * head_dim;
#pragma unroll
  for (int j = 0; j < kQuads; ++j) {
    const int d = 4 * lane() + 128 * j;
    Floats4 some;
#pragma unroll
    for (int i = 0; i < 4; ++i) some.value[i] = total.result[4 * j + i] / total.total;
    if (a.aligned && d + 4 <= head_dim) {
      store_as(out + d, some);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (d + i < head_dim) out[d + i] = some.value[i];
    }
  }
}

using Kernel = void (*)(Attention);

struct Variant {
  int tiles;  // of 16 lines
  Kernel parts;
  Kernel join;
};

Variant variant_for(int head_dim, std::int64_t lines) {
  const bool few = lines <= 16;
  if (head_dim <= 64) {
    return few ? Variant{1, attend_parts<1, 1>, attend_join<1>} : Variant{4, attend_parts<4, 1>, attend_join<1>};
  }
  if (head_dim <= 128) {
    return few ? Variant{1, attend_parts<1, 2>, attend_join<1>} : Variant{4, attend_parts<4, 2>, attend_join<1>};
  }
  return few ? Variant{1, attend_parts<1, 4>, attend_join<2>} : Variant{2, attend_parts<2, 4>, attend_join<2>};
}

// The largest heads that each variant is for must fit into the shared memory of every device from sm_80 on.
constexpr std::size_t kLeastShared = std::size_t{99} << 10;
constexpr bool fits(int head_dim, int tiles) {
  return room_bytes({KvType::F16, 1, head_dim, kUnit}, 16 * tiles) <= kLeastShared &&
         room_bytes({KvType::Q8_0, 1, head_dim, kUnit}, 16 * tiles) <= kLeastShared;
}
static_assert(fits(64, 4) && fits(128, 4) && fits(kMostHeadDim, 2));

// What a call may need at most, whatever the length of the prefix.
constexpr std::int64_t kMostScratch = std::int64_t{128} << 20;
constexpr std::int64_t kMostRows = 65535;  // of a grid: blocks in y
constexpr int kLongContext = 4096;         // for so many slots of a sequence and more, four warps join a line

}  // namespace

void CudaBackend::attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule) {
  for (std::size_t group = 0; group < rows.group_count(); ++group) {
    const Rows some = rows.of_group(group);
    const int first = rows.first_of(group);
    attend_sequence(out.row_range(first, some.count), q.row_range(first, some.count), cache, some, rule);
  }
}

void CudaBackend::attend_sequence(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows,
                                  const AttentionRule& rule) {
  const KvShape& shape = cache.shape;
  const int width = padded(shape.head_dim), multiprocessors = device_->runtime->device().multiprocessors;
  const std::int64_t most_units = rows.sequence.page_count;
  const std::int64_t most_segments = (most_units + kSegment - 1) / kSegment;
  const bool chain = rows.depth == nullptr && rows.path == nullptr;
  // Rows that stand deeper than their path is long are none; those without a path may stand anywhere.
  const std::int64_t reach = chain ? 0 : rows.path != nullptr ? rows.path_stride + kUnit - 1 : most_units * kUnit;
  const std::int64_t own_units = (reach + kUnit - 1) / kUnit + (chain ? 1 : 0);

  Attention a;
  a.group = static_cast<int>(q.cols / shape.head_dim / shape.heads);
  const std::int64_t row_bytes = std::int64_t{width} * a.group * shape.heads * static_cast<std::int64_t>(sizeof(float));
  const auto rows_at_once = static_cast<int>(
      std::clamp<std::int64_t>(kMostScratch / (row_bytes * (most_segments + own_units)), 16, kMostRows));
  for (int first = 0; first < rows.count; first += rows_at_once) {
    const int count = std::min(rows_at_once, rows.count - first);
    const std::int64_t lines = std::int64_t{count} * a.group;
    const Variant variant = variant_for(shape.head_dim, lines);
    a.out = out;
    a.q = q;
    a.cache = cache;
    a.rows = rows;
    a.rows.count = count;
    a.first_row = first;
    a.rule = rule;
    a.chain = chain;
    a.tiles = static_cast<int>((lines + 16 * variant.tiles - 1) / (16 * variant.tiles));
    a.own_items = static_cast<int>(own_units) * count * shape.heads * ((a.group + 15) / 16);
    a.most_units = static_cast<int>(most_units);
    // So many segments and more keep the device busy; with fewer, units are shared out.
    const int wanted = variant.tiles == 1 ? 2 * multiprocessors : multiprocessors / 2 + 1;
    a.many_segments = std::max(1, wanted / (shape.heads * a.tiles));
    const std::int64_t most_spans =
        std::max(most_segments, std::min(most_units, std::int64_t{a.many_segments} * kSegment));
    a.join_warps = most_units * kUnit >= kLongContext ? kThreads / kWarp : 1;
    a.aligned = fits_16(out.data, out.stride * 4) && shape.head_dim % 4 == 0;

    const std::int64_t all_lines = lines * shape.heads;
    a.common_parts = most_spans * all_lines;
    const std::int64_t parts = a.common_parts + own_units * all_lines;
    a.parts = attention_scratch_.take<float>(static_cast<std::size_t>(parts * (width + 2)));
    a.stats = a.parts + parts * width;
    const std::int64_t items = most_spans * shape.heads * a.tiles + a.own_items;
    const std::int64_t blocks = std::min<std::int64_t>(items, (variant.tiles == 1 ? 4 : 2) * multiprocessors);
    launch("attend_parts", variant.parts, {static_cast<int>(blocks)}, kThreads, room_bytes(shape, 16 * variant.tiles),
           a);
    const int heads_per_block = kThreads / kWarp / a.join_warps;
    launch("attend_join", variant.join, {(a.group * shape.heads + heads_per_block - 1) / heads_per_block, count},
           kThreads, shape.head_dim <= 128 ? shared_bytes<Fold<1>>(kThreads) : shared_bytes<Fold<2>>(kThreads), a);
  }
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
