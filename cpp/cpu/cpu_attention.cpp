// CPU backend: the key/value cache and attention over it. See attention.h for the layout.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

std::int32_t depth_of(const Rows& rows, std::int64_t r) {
  return rows.depth != nullptr ? rows.depth[r] : static_cast<std::int32_t>(r);
}

// Slots are allocated in whole chunks, so that a chunk's keys can be read without asking where they end.
std::int64_t slots_of(const KvShape& shape) {
  return (shape.capacity + std::int64_t{kAttentionChunk} - 1) / kAttentionChunk * kAttentionChunk;
}

std::int64_t codes_per_head(const KvShape& shape) { return slots_of(shape) * shape.head_dim; }

// The part of a layer's keys or values that belongs to one head.
HeadCache head_of(void* memory, const KvShape& shape, std::int64_t head) {
  auto* bytes = static_cast<std::byte*>(memory);
  const std::int64_t codes = codes_per_head(shape);
  if (shape.type == KvType::F16) return {CacheForm::F16, bytes + 2 * codes * head, nullptr};
  if (shape.type == KvType::F32) return {CacheForm::F32, bytes + 4 * codes * head, nullptr};
  return {CacheForm::Int8, bytes + codes * head, bytes + codes * shape.heads + 2 * (codes / kKvBlock) * head};
}

// Where element d of a slot stands among a head's codes.
struct KeyPlace {
  static std::int64_t code(std::int64_t slot, int d, int head_dim) {
    return (slot / kPanel * head_dim + d) * kPanel + slot % kPanel;
  }
  static std::int64_t scale(std::int64_t slot, int block, int blocks) {
    return (slot / kPanel * blocks + block) * kPanel + slot % kPanel;
  }
};

struct ValuePlace {
  static std::int64_t code(std::int64_t slot, int d, int head_dim) { return slot * head_dim + d; }
  static std::int64_t scale(std::int64_t slot, int block, int blocks) { return slot * blocks + block; }
};

template <class Place>
void store_slot(const Kernels& kernels, const HeadCache& cache, std::int64_t slot, const float* x, int head_dim,
                std::uint16_t* halves) {
  if (cache.form == CacheForm::F32) {
    auto* floats = reinterpret_cast<float*>(cache.data);
    for (int d = 0; d < head_dim; ++d) floats[Place::code(slot, d, head_dim)] = x[d];
    return;
  }
  if (cache.form == CacheForm::F16) {
    kernels.to_half(halves, x, head_dim);
    auto* codes = reinterpret_cast<std::uint16_t*>(cache.data);
    for (int d = 0; d < head_dim; ++d) codes[Place::code(slot, d, head_dim)] = halves[d];
    return;
  }
  auto* codes = reinterpret_cast<std::int8_t*>(cache.data);
  auto* scales = reinterpret_cast<std::uint16_t*>(cache.scales);
  for (int block = 0; block < head_dim / kKvBlock; ++block) {
    const float* from = x + block * kKvBlock;
    float largest = 0.0f;
    for (int i = 0; i < kKvBlock; ++i) largest = std::max(largest, std::fabs(from[i]));
    const float scale = largest / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    kernels.to_half(scales + Place::scale(slot, block, head_dim / kKvBlock), &scale, 1);
    for (int i = 0; i < kKvBlock; ++i) {
      codes[Place::code(slot, block * kKvBlock + i, head_dim)] =
          static_cast<std::int8_t>(std::clamp(std::nearbyint(from[i] * inverse), -127.0f, 127.0f));
    }
  }
}

template <class Place, class Element>
void move_codes(std::byte* data, std::int64_t from, std::int64_t to, int head_dim) {
  auto* codes = reinterpret_cast<Element*>(data);
  for (int d = 0; d < head_dim; ++d) codes[Place::code(to, d, head_dim)] = codes[Place::code(from, d, head_dim)];
}

template <class Place>
void move_slot(const HeadCache& cache, std::int64_t from, std::int64_t to, int head_dim) {
  if (cache.form == CacheForm::F32) return move_codes<Place, float>(cache.data, from, to, head_dim);
  if (cache.form == CacheForm::F16) return move_codes<Place, std::uint16_t>(cache.data, from, to, head_dim);
  move_codes<Place, std::int8_t>(cache.data, from, to, head_dim);
  auto* scales = reinterpret_cast<std::uint16_t*>(cache.scales);
  const int blocks = head_dim / kKvBlock;
  for (int block = 0; block < blocks; ++block) {
    scales[Place::scale(to, block, blocks)] = scales[Place::scale(from, block, blocks)];
  }
}

void rotate(float* head, const float* cos, const float* sin, const Rope& rope) {
  const int half = rope.dims / 2;
  const int step = rope.interleaved ? 2 : 1;
  const int partner = rope.interleaved ? 1 : half;
  for (int i = 0; i < half; ++i) {
    const float a = head[i * step];
    const float b = head[i * step + partner];
    head[i * step] = a * cos[i] - b * sin[i];
    head[i * step + partner] = a * sin[i] + b * cos[i];
  }
}

}  // namespace

std::size_t CpuBackend::kv_bytes(const KvShape& shape) const {
  if (shape.type == KvType::Q8_0 && shape.head_dim % kKvBlock != 0) {
    fail("type of the K/V cache: found q8_0, expected f16 or f32: the model's heads have ", shape.head_dim,
         " elements, no multiple of ", kKvBlock);
  }
  const std::int64_t codes = codes_per_head(shape) * shape.heads;
  if (shape.type == KvType::Q8_0) return static_cast<std::size_t>(codes + 2 * (codes / kKvBlock));
  return static_cast<std::size_t>((shape.type == KvType::F32 ? 4 : 2) * codes);
}

void CpuBackend::rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache,
                                 const Rows& rows) {
  const KvShape& shape = cache.shape;
  const std::int64_t d = shape.head_dim;
  pool_.parallel_for(rows.count, 2, [&](std::int64_t begin, std::int64_t end, int worker) {
    auto* halves = reinterpret_cast<std::uint16_t*>(
        row_scratch_[static_cast<std::size_t>(worker)].bytes(static_cast<std::size_t>(2 * d)));
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t position = *rows.prefix + depth_of(rows, r);
      const float* cos = rope.cos + position * (rope.dims / 2);
      const float* sin = rope.sin + position * (rope.dims / 2);
      for (std::int64_t h = 0; h < q.cols; h += d) rotate(q.row(r) + h, cos, sin, rope);
      if (rope.query_scale != nullptr) {
        for (std::int64_t i = 0; i < q.cols; ++i) q.row(r)[i] *= rope.query_scale[position];
      }
      const std::int64_t slot = *rows.prefix + rows.first_slot + r;
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        rotate(k.row(r) + h * d, cos, sin, rope);
        store_slot<KeyPlace>(kernels_, head_of(cache.keys, shape, h), slot, k.row(r) + h * d, shape.head_dim, halves);
        store_slot<ValuePlace>(kernels_, head_of(cache.values, shape, h), slot, v.row(r) + h * d, shape.head_dim,
                               halves);
      }
    }
  });
}

void CpuBackend::attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule) {
  const KvShape& shape = cache.shape;
  const auto group = static_cast<int>(q.cols / shape.head_dim / shape.heads);
  const std::int64_t row_blocks = (rows.count + kAttentionRows - 1) / kAttentionRows;
  auto* lengths = reinterpret_cast<std::int32_t*>(lengths_.bytes(2 * sizeof(std::int32_t) * rows.count));
  std::int32_t* firsts = lengths + rows.count;
  std::int32_t longest = 0, earliest = std::numeric_limits<std::int32_t>::max();
  for (int r = 0; r < rows.count; ++r) {
    lengths[r] = *rows.prefix + depth_of(rows, r) + 1;
    firsts[r] = rule.window > 0 ? std::max(0, lengths[r] - rule.window) : 0;
    longest = std::max(longest, lengths[r]);
    earliest = std::min(earliest, firsts[r]);
  }
  const std::int32_t begin_segment = earliest / kAttentionSegment;
  const std::int32_t segments = (longest + kAttentionSegment - 1) / kAttentionSegment - begin_segment;
  const std::int64_t heads = row_blocks * shape.heads;
  // Few rows over a long text: segments are shared out, too. The bits are the same either way (attention.inl).
  const bool split = segments > 1 && rows.count <= 4 * kAttentionRows && heads < std::int64_t{4} * pool_.size();
  const std::int64_t line = shape.head_dim + 2, lines = std::int64_t{kAttentionRows} * group;
  float* partial = split ? partial_.floats(static_cast<std::size_t>(heads * segments * lines * line)) : nullptr;
  const std::int64_t parts = split ? segments : 1;

  const auto task_of = [&](std::int64_t head_task) {
    const std::int64_t head = head_task % shape.heads, first = head_task / shape.heads * kAttentionRows;
    AttentionTask t;
    t.q = q.row(first) + head * group * shape.head_dim;
    t.q_stride = q.stride;
    t.out = out.row(first) + head * group * shape.head_dim;
    t.out_stride = out.stride;
    t.rows = static_cast<int>(std::min<std::int64_t>(kAttentionRows, rows.count - first));
    t.group = group;
    t.head_dim = shape.head_dim;
    t.keys = head_of(cache.keys, shape, head);
    t.values = head_of(cache.values, shape, head);
    t.prefix = *rows.prefix;
    t.path = rows.path != nullptr ? rows.path + first * rows.path_stride : nullptr;
    t.path_stride = rows.path_stride;
    t.length = lengths + first;
    t.first = firsts + first;
    t.scale = rule.scale;
    t.cap = rule.cap;
    t.sinks = rule.sinks != nullptr ? rule.sinks + head * group : nullptr;
    return t;
  };
  pool_.parallel_for(heads * parts, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t at = begin; at < end; ++at) {
      AttentionTask t = task_of(at / parts);
      t.first_segment = begin_segment + (split ? static_cast<std::int32_t>(at % parts) : 0);
      t.last_segment = split ? t.first_segment + 1 : begin_segment + segments;
      if (split) t.partial = partial + at * lines * line;
      t.scratch = row_scratch_[static_cast<std::size_t>(worker)].floats(
          static_cast<std::size_t>(attention_scratch(shape.head_dim, group)));
      kernels_.attend(t);
    }
  });
  if (!split) return;
  pool_.parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t at = begin; at < end; ++at) {
      const AttentionTask t = task_of(at);
      for (std::int64_t i = 0; i < std::int64_t{t.rows} * group; ++i) {
        kernels_.merge_segments(t.out + i / group * t.out_stride + i % group * t.head_dim,
                                partial + (at * segments * lines + i) * line, lines * line, segments, t.head_dim,
                                t.sinks != nullptr ? t.sinks + i % group : nullptr);
      }
    }
  });
}

void CpuBackend::compact(std::span<const KvLayer> layers, const std::int32_t* prefix, const VerdictView& verdict) {
  for (const KvLayer& layer : layers) {
    for (std::int64_t i = 0; i < *verdict.count; ++i) {
      const std::int64_t from = *prefix + verdict.nodes[i];  // never before `to`: a node comes after its ancestors
      const std::int64_t to = *prefix + i;
      if (from == to) continue;
      for (std::int64_t h = 0; h < layer.shape.heads; ++h) {
        move_slot<KeyPlace>(head_of(layer.keys, layer.shape, h), from, to, layer.shape.head_dim);
        move_slot<ValuePlace>(head_of(layer.values, layer.shape, h), from, to, layer.shape.head_dim);
      }
    }
  }
}

void CpuBackend::advance(std::int32_t* prefix, const std::int32_t* count) { *prefix += *count; }

}  // namespace frspec::cpu
