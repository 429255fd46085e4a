// CPU backend: the layers of a transformer.
#include <algorithm>
#include <cstring>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr std::int64_t kRowBlock = 64;  // rows of x that meet a dequantized panel while it is in cache

std::int32_t depth_of(const Rows& rows, std::int64_t r) {
  return rows.depth != nullptr ? rows.depth[r] : static_cast<std::int32_t>(r);
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

void CpuBackend::embed(Tensor out, const Weight& table, const std::int32_t* ids) {
  const auto& weight = static_cast<const CpuWeight&>(table);
  pool_.parallel_for(out.rows, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      kernels_.dequantize(weight.type(), weight.row(ids[r]), out.row(r), weight.cols());
    }
  });
}

void CpuBackend::copy(Tensor out, Tensor x) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    std::memcpy(out.row(r), x.row(r), static_cast<std::size_t>(x.cols) * sizeof(float));
  }
}

void CpuBackend::gather_rows(Tensor out, Tensor x, const std::int32_t* rows) {
  for (std::int64_t r = 0; r < out.rows; ++r) {
    std::memcpy(out.row(r), x.row(rows[r]), static_cast<std::size_t>(out.cols) * sizeof(float));
  }
}

void CpuBackend::rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) {
  pool_.parallel_for(x.rows, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) kernels_.rms_norm(out.row(r), x.row(r), weight, x.cols, epsilon);
  });
}

void CpuBackend::matmul(Tensor x, std::span<const Projection> projections) {
  std::int64_t panels = 0;
  for (const Projection& p : projections) panels += (p.weight->rows() + kPanel - 1) / kPanel;
  // Panels of all projections in one loop, so that a small one does not leave threads idle.
  const auto one_panel = [&](std::int64_t panel, int worker) {
    const Projection* p = projections.data();
    for (std::int64_t count; panel >= (count = (p->weight->rows() + kPanel - 1) / kPanel); ++p) panel -= count;
    const auto& weight = static_cast<const CpuWeight&>(*p->weight);
    const std::int64_t first = panel * kPanel;
    const std::int64_t count = std::min<std::int64_t>(kPanel, weight.rows() - first);
    DotBlock block;
    block.k = weight.cols();
    block.w_stride = weight.cols();
    block.n_count = count;
    block.x_stride = x.stride;
    block.out_stride = p->out.stride;
    block.bias = p->bias != nullptr ? p->bias + first : nullptr;
    block.accumulate = p->accumulate;
    if (weight.type() == DType::F32) {
      block.w = reinterpret_cast<const float*>(weight.row(first));
    } else {
      float* rows = scratch(worker, static_cast<std::size_t>(kPanel * weight.cols()));
      for (std::int64_t i = 0; i < count; ++i) {
        kernels_.dequantize(weight.type(), weight.row(first + i), rows + i * weight.cols(), weight.cols());
      }
      block.w = rows;
    }
    for (std::int64_t m = 0; m < x.rows; m += kRowBlock) {
      block.x = x.row(m);
      block.m_count = std::min(kRowBlock, x.rows - m);
      block.out = p->out.row(m) + first;
      kernels_.dot_block(block);
    }
  };
  pool_.parallel_for(panels, 4, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t panel = begin; panel < end; ++panel) one_panel(panel, worker);
  });
}

void CpuBackend::swiglu(Tensor gate, Tensor up) {
  pool_.parallel_for(gate.rows, 8, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) kernels_.swiglu(gate.row(r), up.row(r), gate.cols);
  });
}

void CpuBackend::rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache,
                                 const Rows& rows) {
  const std::int64_t width = static_cast<std::int64_t>(cache.heads) * cache.head_dim;
  pool_.parallel_for(rows.count, 8, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t position = *rows.prefix + depth_of(rows, r);
      const float* cos = rope.cos + position * (rope.dims / 2);
      const float* sin = rope.sin + position * (rope.dims / 2);
      for (std::int64_t h = 0; h < q.cols; h += cache.head_dim) rotate(q.row(r) + h, cos, sin, rope);
      for (std::int64_t h = 0; h < width; h += cache.head_dim) rotate(k.row(r) + h, cos, sin, rope);
      const std::int64_t slot = *rows.prefix + rows.first_slot + r;
      kernels_.to_half(cache.keys + slot * width, k.row(r), width);
      kernels_.to_half(cache.values + slot * width, v.row(r), width);
    }
  });
}

void CpuBackend::attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, float scale) {
  const std::int64_t group = q.cols / cache.head_dim / cache.heads;
  const std::int64_t width = static_cast<std::int64_t>(cache.heads) * cache.head_dim;
  pool_.parallel_for(rows.count * std::int64_t{cache.heads}, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t r = task / cache.heads;
      const std::int64_t head = task % cache.heads;
      AttendGroup a;
      a.q = q.row(r) + head * group * cache.head_dim;
      a.out = out.row(r) + head * group * cache.head_dim;
      a.group = static_cast<int>(group);
      a.head_dim = cache.head_dim;
      a.keys = cache.keys + head * cache.head_dim;
      a.values = cache.values + head * cache.head_dim;
      a.slot_stride = width;
      a.prefix = *rows.prefix;
      a.path = rows.path != nullptr ? rows.path + r * rows.path_stride : nullptr;
      a.length = *rows.prefix + depth_of(rows, r) + 1;
      a.scale = scale;
      a.scratch = scratch(worker, static_cast<std::size_t>(attend_scratch(cache.head_dim, group)));
      kernels_.attend_group(a);
    }
  });
}

void CpuBackend::compact(std::span<const KvLayer> layers, const std::int32_t* prefix, const VerdictView& verdict) {
  for (const KvLayer& layer : layers) {
    const std::int64_t width = static_cast<std::int64_t>(layer.heads) * layer.head_dim;
    for (std::int64_t i = 0; i < *verdict.count; ++i) {
      const std::int64_t from = *prefix + verdict.nodes[i];  // never before `to`: a node comes after its ancestors
      const std::int64_t to = *prefix + i;
      if (from == to) continue;
      const auto bytes = static_cast<std::size_t>(width) * sizeof(std::uint16_t);
      std::memcpy(layer.keys + to * width, layer.keys + from * width, bytes);
      std::memcpy(layer.values + to * width, layer.values + from * width, bytes);
    }
  }
}

void CpuBackend::advance(std::int32_t* prefix, const std::int32_t* count) { *prefix += *count; }

}  // namespace frspec::cpu
