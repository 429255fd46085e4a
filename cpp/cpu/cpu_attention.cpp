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

static_assert(kAttentionChunk == kPageSlots);

// Where a slot of a sequence lies.
std::int64_t slot_of(const SequenceView& sequence, std::int64_t slot) {
  return std::int64_t{sequence.pages[slot / kPageSlots]} * kPageSlots + slot % kPageSlots;
}

std::int64_t codes_per_head(const KvShape& shape) { return std::int64_t{shape.capacity} * shape.head_dim; }

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
    for (std::size_t g = 0; g < rows.group_count(); ++g) {
      const Rows group = rows.of_group(g);
      const std::int64_t first = rows.first_of(g), length = *group.sequence.length;
      for (std::int64_t r = std::max(begin, first); r < std::min(end, first + group.count); ++r) {
        const std::int64_t position = length + depth_of(group, r - first);
        const float* cos = rope.cos + position * (rope.dims / 2);
        const float* sin = rope.sin + position * (rope.dims / 2);
        for (std::int64_t h = 0; h < q.cols; h += d) rotate(q.row(r) + h, cos, sin, rope);
        if (rope.query_scale != nullptr) {
          for (std::int64_t i = 0; i < q.cols; ++i) q.row(r)[i] *= rope.query_scale[position];
        }
        const std::int64_t slot = slot_of(group.sequence, length + rows.first_slot + r - first);
        for (std::int64_t h = 0; h < shape.heads; ++h) {
          rotate(k.row(r) + h * d, cos, sin, rope);
          store_slot<KeyPlace>(kernels_, head_of(cache.keys, shape, h), slot, k.row(r) + h * d, shape.head_dim, halves);
          store_slot<ValuePlace>(kernels_, head_of(cache.values, shape, h), slot, v.row(r) + h * d, shape.head_dim,
                                 halves);
        }
      }
    }
  });
}

// Cuts a pass into blocks. Returns (2, rows): the positions that each row sees, and the first of them.
const std::int32_t* CpuBackend::find_blocks(const Rows& rows, const AttentionRule& rule) {
  auto* lengths = reinterpret_cast<std::int32_t*>(lengths_.bytes(2 * sizeof(std::int32_t) * rows.count));
  std::int32_t* firsts = lengths + rows.count;
  row_blocks_.clear();
  for (std::size_t g = 0; g < rows.group_count(); ++g) {
    const Rows group = rows.of_group(g);
    const std::int64_t start = rows.first_of(g);
    for (std::int64_t at = 0; at < group.count; at += kAttentionRows) {
      const std::int64_t count = std::min<std::int64_t>(kAttentionRows, group.count - at);
      std::int32_t longest = 0, earliest = std::numeric_limits<std::int32_t>::max();
      for (std::int64_t r = 0; r < count; ++r) {
        std::int32_t& length = lengths[start + at + r];
        std::int32_t& first = firsts[start + at + r];
        length = *group.sequence.length + depth_of(group, at + r) + 1;
        first = rule.window > 0 ? std::max(0, length - rule.window) : 0;
        longest = std::max(longest, length);
        earliest = std::min(earliest, first);
      }
      row_blocks_.push_back({group, start + at, at, static_cast<int>(count), earliest / kAttentionSegment,
                             (longest + kAttentionSegment - 1) / kAttentionSegment});
    }
  }
  return lengths;
}

void CpuBackend::attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule) {
  if (rows.count == 0) return;
  const KvShape& shape = cache.shape;
  const auto group = static_cast<int>(q.cols / shape.head_dim / shape.heads);
  const std::int32_t* lengths = find_blocks(rows, rule);
  std::int32_t begin_segment = row_blocks_[0].begin_segment, end_segment = row_blocks_[0].end_segment;
  for (const RowBlock& block : row_blocks_) {
    begin_segment = std::min(begin_segment, block.begin_segment);
    end_segment = std::max(end_segment, block.end_segment);
  }
  const std::int32_t segments = end_segment - begin_segment;
  const std::int64_t heads = static_cast<std::int64_t>(row_blocks_.size()) * shape.heads;
  // Few rows over a long text: segments are shared out, too. The bits are the same either way (attention.inl).
  const bool split = segments > 1 && rows.count <= 4 * kAttentionRows && heads < std::int64_t{4} * pool_.size();
  const std::int64_t line = shape.head_dim + 2, lines = std::int64_t{kAttentionRows} * group;
  float* partial = split ? partial_.floats(static_cast<std::size_t>(heads * segments * lines * line)) : nullptr;
  const std::int64_t parts = split ? segments : 1;

  const auto block_of = [&](std::int64_t head_task) -> const RowBlock& {
    return row_blocks_[static_cast<std::size_t>(head_task / shape.heads)];
  };
  const auto task_of = [&](std::int64_t head_task) {
    const RowBlock& block = block_of(head_task);
    const std::int64_t head = head_task % shape.heads;
    AttentionTask t;
    t.q = q.row(block.first) + head * group * shape.head_dim;
    t.q_stride = q.stride;
    t.out = out.row(block.first) + head * group * shape.head_dim;
    t.out_stride = out.stride;
    t.rows = block.rows;
    t.group = group;
    t.head_dim = shape.head_dim;
    t.keys = head_of(cache.keys, shape, head);
    t.values = head_of(cache.values, shape, head);
    t.pages = block.group.sequence.pages;
    t.prefix = *block.group.sequence.length;
    t.path = block.group.path != nullptr ? block.group.path + block.in_group * block.group.path_stride : nullptr;
    t.path_stride = block.group.path_stride;
    t.length = lengths + block.first;
    t.first = lengths + rows.count + block.first;
    t.scale = rule.scale;
    t.cap = rule.cap;
    t.sinks = rule.sinks != nullptr ? rule.sinks + head * group : nullptr;
    return t;
  };
  pool_.parallel_for(heads * parts, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t at = begin; at < end; ++at) {
      AttentionTask t = task_of(at / parts);
      const RowBlock& block = block_of(at / parts);
      t.first_segment = split ? begin_segment + static_cast<std::int32_t>(at % parts) : block.begin_segment;
      t.last_segment = split ? t.first_segment + 1 : block.end_segment;
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

void CpuBackend::commit(std::span<const KvLayer> layers, const SequenceView& sequence, const VerdictView& verdict,
                        const PathView& path) {
  const std::int64_t length = *sequence.length, count = *verdict.count;
  for (const KvLayer& layer : layers) {
    for (std::int64_t i = 0; i < count && verdict.nodes != nullptr; ++i) {
      if (verdict.nodes[i] == i) continue;
      // Never before `to`: a node comes after its ancestors.
      const std::int64_t from = slot_of(sequence, length + verdict.nodes[i]);
      const std::int64_t to = slot_of(sequence, length + i);
      for (std::int64_t h = 0; h < layer.shape.heads; ++h) {
        move_slot<KeyPlace>(head_of(layer.keys, layer.shape, h), from, to, layer.shape.head_dim);
        move_slot<ValuePlace>(head_of(layer.values, layer.shape, h), from, to, layer.shape.head_dim);
      }
    }
  }
  for (std::int64_t i = 0; i < count && verdict.tokens != nullptr; ++i) {
    sequence.history[length + 1 + i] = std::max(verdict.tokens[i], 0);
  }
  for (std::int64_t i = 0; i < path.rows; ++i) {
    path.nodes[i] = i < count ? verdict.nodes[i] : 0;
    path.tokens[i] = i < count ? std::max(verdict.tokens[i], 0) : 0;
  }
  if (path.rows > 0) *path.last = static_cast<std::int32_t>(count) - 1;
  *sequence.length += *verdict.count;
}

void CpuBackend::copy_page(std::span<const KvLayer> layers, std::int32_t from, std::int32_t to) {
  const auto copy = [&](std::byte* data, std::size_t bytes) {
    if (data == nullptr) return;
    const auto apart = static_cast<std::ptrdiff_t>(bytes);
    std::memcpy(data + to * apart, data + from * apart, bytes);
  };
  for (const KvLayer& layer : layers) {
    const auto codes = static_cast<std::size_t>(kPageSlots) * static_cast<std::size_t>(layer.shape.head_dim);
    const std::size_t size = layer.shape.type == KvType::F32 ? 4 : layer.shape.type == KvType::F16 ? 2 : 1;
    for (void* memory : {layer.keys, layer.values}) {
      for (std::int64_t h = 0; h < layer.shape.heads; ++h) {
        const HeadCache head = head_of(memory, layer.shape, h);
        copy(head.data, size * codes);
        copy(head.scales, 2 * codes / kKvBlock);
      }
    }
  }
}

}  // namespace frspec::cpu
