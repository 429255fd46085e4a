// CUDA backend: the key/value cache. kv_cache.cuh has its layout.
//
// Memory.
//   rope_and_append: a warp per head of a row. It reads and writes q and k (4 bytes per lane, neighbouring lanes
//     neighbouring elements: pairs apart by half a head are two such runs), reads v, and writes a row of the cache: 4
//     bytes per lane (F16), or a byte and a scale per block (Q8_0). The head passes through shared memory, because
//     those who rotate pairs are not those who pack neighbours. The angles are read by all heads of a row: from L2.
//   commit: a thread per 16 bytes of a row of one head, which it moves for all accepted nodes, 8 loads in flight;
//     neighbouring threads neighbouring pieces, a row of a head at a time. Scales (Q8_0) as 2 bytes each. Then one warp
//     for the tokens.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/device/block.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/numbers.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/kv_cache.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kHeadsPerBlock = 4;
constexpr int kMoves = 8;  // rows that a thread has in flight
constexpr int kMoveThreads = 128;

// --- Appending ---

// Rotates a head from `x` into `to` (shared) and back. By one warp.
__device__ inline void rotate(float* x, float* to, int head_dim, const Rope& rope, std::int64_t position) {
  const int half = rope.dims / 2;
  const int step = rope.interleaved ? 2 : 1;
  const int partner = rope.interleaved ? 1 : half;
  const float* cos = rope.cos + position * half;
  const float* sin = rope.sin + position * half;
  for (int i = lane(); i < half; i += kWarp) {
    const float a = x[i * step], b = x[i * step + partner];
    const float first = a * cos[i] - b * sin[i], second = a * sin[i] + b * cos[i];
    x[i * step] = to[i * step] = first;
    x[i * step + partner] = to[i * step + partner] = second;
  }
  for (int i = rope.dims + lane(); i < head_dim; i += kWarp) to[i] = x[i];
}

// A head's row of keys or values, from shared memory. By one warp.
__device__ inline void store_row(const KvHead& cache, std::int64_t slot, const float* x, int head_dim) {
  std::byte* row = cache.codes + slot * cache.row_bytes;
  if (cache.scales == nullptr) {
    auto* pairs = reinterpret_cast<std::uint32_t*>(row);
    for (int i = lane(); i < cache.row_bytes / 4; i += kWarp) {
      pairs[i] = pack_halves(2 * i < head_dim ? float_to_half(x[2 * i]) : std::uint16_t{0},
                             2 * i + 1 < head_dim ? float_to_half(x[2 * i + 1]) : std::uint16_t{0});
    }
    return;
  }
  for (int block = 0; block < cache.blocks; ++block) {
    const float value = x[block * kKvBlock + lane()];
    const float size = std::fabs(value);
    const float scale = warp_max(size >= 0.0f ? size : 0.0f) / 127.0f;  // NaN does not count
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    const float code = std::rint(value * inverse);
    const float within = code > 127.0f ? 127.0f : code >= -127.0f ? code : code < -127.0f ? -127.0f : 0.0f;  // NaN: 0
    row[block * kKvBlock + lane()] = static_cast<std::byte>(static_cast<std::int8_t>(within));
    if (lane() == 0) cache.scales[slot * cache.blocks + block] = float_to_half(scale);
  }
}

// Grid: x: the row; y: its heads: of q, of k, of v.
__global__ void __launch_bounds__(kHeadsPerBlock* kWarp)
    rotate_and_append(Tensor q, Tensor k, Tensor v, Rope rope, KvLayer cache, Rows rows) {
  SharedMemory shared;
  const KvShape& shape = cache.shape;
  const int head_dim = shape.head_dim;
  float* x = shared.take<float>(kHeadsPerBlock * head_dim) + warp() * head_dim;
  const int r = block_x();
  const auto q_heads = static_cast<int>(q.cols / head_dim);
  const int head = block_y() * warps() + warp();
  if (head >= q_heads + 2 * shape.heads) return;  // a whole warp, and no barrier of the block follows

  const int prefix = *rows.sequence.length;
  std::int64_t position = std::int64_t{prefix} + depth_of(rows, r);
  position = position < rope.positions ? position : rope.positions - 1;
  position = position > 0 ? position : 0;
  const bool is_query = head < q_heads, is_value = head >= q_heads + shape.heads;
  if (is_value) {
    const float* from = v.row(r) + std::int64_t{head - q_heads - shape.heads} * head_dim;
    for (int i = lane(); i < head_dim; i += kWarp) x[i] = from[i];
  } else {
    float* from =
        is_query ? q.row(r) + std::int64_t{head} * head_dim : k.row(r) + std::int64_t{head - q_heads} * head_dim;
    rotate(from, x, head_dim, rope, position);
    if (is_query && rope.query_scale != nullptr) {
      warp_sync();  // others have rotated what this lane scales
      for (int i = lane(); i < head_dim; i += kWarp) from[i] *= rope.query_scale[position];
    }
  }
  warp_sync();
  const std::int64_t slot = std::int64_t{prefix} + rows.first_slot + r;
  if (is_query || slot < 0 || slot >= std::int64_t{rows.sequence.page_count} * kPageSlots) return;
  const int kv = (head - q_heads) % shape.heads;
  store_row(kv_head(is_value ? cache.values : cache.keys, shape, kv),
            slot_of(rows.sequence.pages, static_cast<int>(slot)), x, head_dim);
}

// --- Committing ---

// Pointers of a few layers, which share a shape.
struct LayerPacket {
  static constexpr int kMost = 64;
  void* keys[kMost];
  void* values[kMost];
};

// Moves one piece of a row for all nodes. In any order of pieces, and the sources of several nodes may be read before
// their targets are written: nodes ascend, so no target is the source of a later node.
template <class Piece>
__device__ inline void move_piece(std::byte* at, std::int64_t row_bytes, const SequenceView& sequence,
                                  const std::int32_t* nodes, int count) {
  const int length = *sequence.length;
  for (int first = 0; first < count; first += kMoves) {
    Piece pieces[kMoves] = {};
#pragma unroll
    for (int i = 0; i < kMoves; ++i) {
      if (first + i < count) {
        pieces[i] = load_as<Piece>(at + slot_of(sequence.pages, length + nodes[first + i]) * row_bytes);
      }
    }
#pragma unroll
    for (int i = 0; i < kMoves; ++i) {
      if (first + i < count) store_as(at + slot_of(sequence.pages, length + first + i) * row_bytes, pieces[i]);
    }
  }
}

// Grid: x: pieces of all heads; y: keys and values of each layer.
__global__ void __launch_bounds__(kMoveThreads)
    move_rows(LayerPacket layers, KvShape shape, SequenceView sequence, VerdictView verdict) {
  void* memory = block_y() % 2 == 0 ? layers.keys[block_y() / 2] : layers.values[block_y() / 2];
  const KvHead any = kv_head(memory, shape, 0);
  const int wide = any.row_bytes / 16, pieces = wide + any.blocks;  // of a head: codes, then scales
  const int piece = block_x() * threads() + thread();
  if (piece >= pieces * shape.heads) return;
  const KvHead head = kv_head(memory, shape, piece / pieces);
  const int i = piece % pieces;
  if (i < wide) {
    move_piece<Words4>(head.codes + 16 * i, head.row_bytes, sequence, verdict.nodes, *verdict.count);
  } else {
    move_piece<std::uint16_t>(reinterpret_cast<std::byte*>(head.scales + (i - wide)), 2 * head.blocks, sequence,
                              verdict.nodes, *verdict.count);
  }
}

// One warp: the tokens, then the length.
__global__ void extend(SequenceView sequence, VerdictView verdict, PathView path) {
  const int length = *sequence.length, count = *verdict.count;
  for (int i = thread(); i < count && verdict.tokens != nullptr; i += threads()) {
    sequence.history[length + 1 + i] = std::max(verdict.tokens[i], 0);
  }
  for (int i = thread(); i < path.rows; i += threads()) {
    path.nodes[i] = i < count ? verdict.nodes[i] : 0;
    path.tokens[i] = i < count ? std::max(verdict.tokens[i], 0) : 0;
  }
  block_sync();  // all have read the length
  if (thread() != 0) return;
  if (path.rows > 0) *path.last = count - 1;
  *sequence.length = length + count;
}

// Grid: x: 16 bytes of each head's part of a page; y: keys and values of each layer.
__global__ void __launch_bounds__(kMoveThreads)
    copy_slots(LayerPacket layers, KvShape shape, std::int32_t from, std::int32_t to) {
  void* memory = block_y() % 2 == 0 ? layers.keys[block_y() / 2] : layers.values[block_y() / 2];
  const KvHead any = kv_head(memory, shape, 0);
  const int codes = kPageSlots * any.row_bytes, scales = kPageSlots * 2 * any.blocks;
  const int pieces = (codes + scales) / 16;
  const int piece = block_x() * threads() + thread();
  if (piece >= pieces * shape.heads) return;
  const KvHead head = kv_head(memory, shape, piece / pieces);
  int at = piece % pieces * 16;
  const bool is_code = at < codes;
  std::byte* data = is_code ? head.codes : reinterpret_cast<std::byte*>(head.scales);
  const std::int64_t bytes = is_code ? codes : scales;
  at -= is_code ? 0 : codes;
  store_as(data + to * bytes + at, load_as<Words4>(data + from * bytes + at));
}

}  // namespace

std::size_t CudaBackend::kv_bytes(const KvShape& shape) const {
  if (shape.type == KvType::F32) fail("type of the K/V cache: found f32, expected f16 or q8_0 on device '", name_, "'");
  if (shape.type == KvType::Q8_0 && shape.head_dim % kKvBlock != 0) {
    fail("type of the K/V cache: found q8_0, expected f16: the model's heads have ", shape.head_dim,
         " elements, no multiple of ", kKvBlock);
  }
  if (shape.head_dim > kMostHeadDim) {
    fail("heads of the model: found ", shape.head_dim, " elements, expected at most ", kMostHeadDim, " on device '",
         name_, "'");
  }
  const std::int64_t rows = std::int64_t{shape.capacity} * shape.heads;
  const std::int64_t row =
      shape.type == KvType::F16 ? 2 * kv_pitch(shape.head_dim) : shape.head_dim + 2 * (shape.head_dim / kKvBlock);
  return static_cast<std::size_t>(rows * row);
}

void CudaBackend::rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache,
                                  const Rows& rows) {
  if (rows.count == 0) return;
  // q may have no rows, and k and v be stored only.
  if (q.rows == 0) q.cols = 0;
  const int head_dim = cache.shape.head_dim;
  const auto heads = static_cast<int>(q.cols / head_dim) + 2 * cache.shape.heads;
  const int at_once = std::min(heads, kHeadsPerBlock);
  for (std::size_t group = 0; group < rows.group_count(); ++group) {
    const Rows some = rows.of_group(group);
    if (some.count == 0) continue;
    const auto of_group = [&](Tensor x) { return x.row_range(rows.first_of(group), some.count); };
    launch("rotate_and_append", rotate_and_append, {some.count, (heads + at_once - 1) / at_once}, at_once * kWarp,
           shared_bytes<float>(kHeadsPerBlock * head_dim), of_group(q), of_group(k), of_group(v), rope, cache, some);
  }
}

namespace {

// Calls use(packet, shape, count) for every LayerPacket's worth of layers that share a shape.
template <class Use>
void for_each_packet(std::span<const KvLayer> layers, Use&& use) {
  for (std::size_t first = 0; first < layers.size();) {
    LayerPacket packet = {};
    const KvShape shape = layers[first].shape;
    int count = 0;
    for (; first < layers.size() && count < LayerPacket::kMost && layers[first].shape == shape; ++first, ++count) {
      packet.keys[count] = layers[first].keys;
      packet.values[count] = layers[first].values;
    }
    use(packet, shape, count);
  }
}

}  // namespace

void CudaBackend::commit(std::span<const KvLayer> layers, const SequenceView& sequence, const VerdictView& verdict,
                         const PathView& path) {
  if (verdict.nodes == nullptr) layers = {};  // all rows are in their places
  for_each_packet(layers, [&](const LayerPacket& packet, const KvShape& shape, int count) {
    const int row_bytes = shape.type == KvType::F16 ? 2 * kv_pitch(shape.head_dim) : shape.head_dim;
    const int scales = shape.type == KvType::F16 ? 0 : shape.head_dim / kKvBlock;
    const int pieces = (row_bytes / 16 + scales) * shape.heads;
    const int threads = std::min((pieces + kWarp - 1) / kWarp * kWarp, kMoveThreads);
    launch("move_rows", move_rows, {(pieces + threads - 1) / threads, 2 * count}, threads, 0, packet, shape, sequence,
           verdict);
  });
  launch("extend", extend, {}, kWarp, 0, sequence, verdict, path);
}

void CudaBackend::copy_page(std::span<const KvLayer> layers, std::int32_t from, std::int32_t to) {
  for_each_packet(layers, [&](const LayerPacket& packet, const KvShape& shape, int count) {
    const int row_bytes = shape.type == KvType::F16 ? 2 * kv_pitch(shape.head_dim) : shape.head_dim;
    const int scale_bytes = shape.type == KvType::F16 ? 0 : 2 * (shape.head_dim / kKvBlock);
    const int pieces = kPageSlots * (row_bytes + scale_bytes) / 16 * shape.heads;
    launch("copy_page", copy_slots, {(pieces + kMoveThreads - 1) / kMoveThreads, 2 * count}, kMoveThreads, 0, packet,
           shape, from, to);
  });
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
