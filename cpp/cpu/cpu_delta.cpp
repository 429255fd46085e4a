// CPU backend: gated delta layers. A state is the window of the convolution, (taps - 1, channels), then for each value
// head and each kDeltaColumns of its values a matrix (head_dim, kDeltaColumns): 16 KiB for the usual heads, which all
// rows of a sequence find in the first-level cache.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

static_assert(kDeltaColumns == kDeltaUnit);

std::int64_t columns_of(const DeltaShape& shape) { return shape.head_dim / kDeltaColumns; }

// Of one state.
float* state_of(const DeltaLayer& layer, int state) { return layer.states + state * layer.shape.state_floats(); }
float* matrix_of(const DeltaLayer& layer, int state, std::int64_t head, std::int64_t column) {
  const DeltaShape& s = layer.shape;
  const std::int64_t size = std::int64_t{s.head_dim} * kDeltaColumns;
  return state_of(layer, state) + s.window_floats() + (head * columns_of(s) + column) * size;
}

std::int32_t parent_of(const Rows& tree, std::int64_t row) {
  const std::int32_t depth = tree.depth[row];
  return depth == 0 ? -1 : tree.path[row * tree.path_stride + depth - 1];
}

// The window that follows `count` rows.
template <class RowOf>
void shift_window(float* window, const DeltaShape& shape, std::int64_t count, RowOf&& row_of) {
  const std::int64_t rows = shape.taps - 1, channels = shape.channels();
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t from = i - rows + count;
    const float* row = from >= 0 ? row_of(from) : window + (rows + from) * channels;
    std::memmove(window + i * channels, row, sizeof(float) * static_cast<std::size_t>(channels));
  }
}

}  // namespace

// Depth first. A node that others go on from leaves its matrix in that of its parent where it is the last to need that
// one, else in one of its own.
int CpuBackend::plan_walk(const Rows& tree, std::vector<DeltaVisit>& visits) {
  const auto n = static_cast<std::size_t>(tree.count);
  delta_children_.assign(2 * n, -1);
  std::int32_t* first = delta_children_.data();
  std::int32_t* next = first + n;
  for (std::int32_t r = tree.count - 1; r > 0; --r) {
    const std::int32_t parent = parent_of(tree, r);
    next[r] = first[parent];
    first[parent] = r;
  }
  visits.clear();
  delta_stack_.assign(1, {0, -1, 0, false});
  int matrices = 0;
  while (!delta_stack_.empty()) {
    const DeltaEntry at = delta_stack_.back();
    delta_stack_.pop_back();
    const bool in_place = at.is_last && at.from >= 0;
    const std::int32_t to = first[at.row] < 0 ? -1 : in_place ? at.from : at.free;
    visits.push_back({at.row, at.from, to});
    const std::int32_t free = std::max(at.free, to + 1);
    matrices = std::max(matrices, free);
    // The last one is pushed first, and so visited last.
    const std::size_t begin = delta_stack_.size();
    for (std::int32_t child = first[at.row]; child >= 0; child = next[child]) {
      delta_stack_.push_back({child, to, free, next[child] < 0});
    }
    std::reverse(delta_stack_.begin() + static_cast<std::ptrdiff_t>(begin), delta_stack_.end());
  }
  return matrices;
}

void CpuBackend::run_delta(Tensor out, const DeltaInputs& in, const DeltaRule& rule, const DeltaLayer& layer,
                           const Rows& rows) {
  if (rows.count == 0) return;
  const DeltaShape& s = layer.shape;
  const std::int64_t d = s.head_dim, channels = s.channels(), keys = s.key_dim(), value_heads = s.value_heads;
  float* const mixed = delta_rows_.floats(static_cast<std::size_t>(rows.count * (channels + 2 * value_heads)));
  float* const decays = mixed + rows.count * channels;
  float* const strengths = decays + rows.count * value_heads;
  const std::size_t groups = rows.group_count();
  delta_walks_.resize(std::max(delta_walks_.size(), groups));
  int matrices = 0;
  std::int64_t kept = 0;  // rows of trees so far

  for (std::size_t g = 0; g < groups; ++g) {
    const Rows group = rows.of_group(g);
    const std::int64_t first = rows.first_of(g), first_kept = kept;
    const bool is_chain = group.depth == nullptr;
    float* window = state_of(layer, group.sequence.state);
    if (is_chain) {
      delta_walks_[g].clear();
    } else {
      matrices = std::max(matrices, plan_walk(group, delta_walks_[g]));
      kept += group.count;
    }
    // What a row's convolution sees, taps - 1 - j steps up.
    const auto input = [&](std::int64_t r, int tap) -> const float* {
      const std::int64_t up = s.taps - 1 - tap, depth = is_chain ? r : group.depth[r];
      if (up > depth) return window + (s.taps - 1 + depth - up) * channels;
      return in.mixed.row(first + (is_chain ? r - up : group.path[r * group.path_stride + depth - up]));
    };
    const std::int64_t heads = channels / d;
    pool_.parallel_for(group.count * heads, 8, [&](std::int64_t begin, std::int64_t end, int worker) {
      auto** taps = reinterpret_cast<const float**>(row_scratch_[static_cast<std::size_t>(worker)].bytes(
          sizeof(const float*) * static_cast<std::size_t>(s.taps)));
      for (std::int64_t at = begin; at < end; ++at) {
        const std::int64_t r = at / heads, channel = at % heads * d, row = first + r;
        float* to = mixed + row * channels + channel;
        for (int tap = 0; tap < s.taps; ++tap) taps[tap] = input(r, tap) + channel;
        kernels_.convolve(to, taps, rule.taps + channel, channels, s.taps, d);
        if (channel < 2 * keys) kernels_.l2_norm(to, to, d, rule.epsilon);
        if (channel == 0) {
          kernels_.delta_gates(decays + row * value_heads, strengths + row * value_heads, in.decay.row(row),
                               in.strength.row(row), rule.decay, rule.bias, value_heads);
        }
        if (is_chain) continue;
        const std::int64_t place = first_kept + r;
        std::copy_n(in.mixed.row(row) + channel, d, layer.inputs + place * channels + channel);
        if (channel >= keys && channel < 2 * keys) std::copy_n(to, d, layer.keys + place * keys + channel - keys);
        if (channel == 0) std::copy_n(decays + row * value_heads, value_heads, layer.decays + place * value_heads);
      }
    });
    if (is_chain) shift_window(window, s, group.count, [&](std::int64_t r) { return in.mixed.row(first + r); });
  }

  const std::int64_t columns = columns_of(s), tasks = value_heads * columns, size = d * kDeltaColumns;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const auto run = [&](std::size_t g, std::int64_t task, float* walk) {
    const Rows group = rows.of_group(g);
    const std::int64_t head = task / columns, value = task * kDeltaColumns, key = head % s.key_heads * d;
    float* const own = matrix_of(layer, group.sequence.state, head, task % columns);
    DeltaStep step;
    step.head_dim = d;
    step.scale = scale;
    const auto visit = [&](std::int64_t r, const float* from, float* to, float* delta) {
      const std::int64_t row = rows.first_of(g) + r;
      step.from = from;
      step.to = to;
      step.delta = delta;
      step.query = mixed + row * channels + key;
      step.key = step.query + keys;
      step.value = mixed + row * channels + 2 * keys + value;
      step.out = out.row(row) + value;
      step.decay = decays[row * value_heads + head];
      step.strength = strengths[row * value_heads + head];
      kernels_.delta_step(step);
    };
    if (group.depth == nullptr) {
      for (std::int64_t r = 0; r < group.count; ++r) visit(r, own, own, nullptr);
      return;
    }
    float* deltas = layer.deltas + value;
    for (std::size_t before = 0; before < g; ++before) {
      if (const Rows other = rows.of_group(before); other.depth != nullptr) deltas += other.count * s.value_dim();
    }
    for (const DeltaVisit& at : delta_walks_[g]) {
      visit(at.row, at.from < 0 ? own : walk + at.from * size, at.to < 0 ? nullptr : walk + at.to * size,
            deltas + at.row * s.value_dim());
    }
  };
  pool_.parallel_for(static_cast<std::int64_t>(groups) * tasks, 1,
                     [&](std::int64_t begin, std::int64_t end, int worker) {
                       float* walk = row_scratch_[static_cast<std::size_t>(worker)].floats(
                           static_cast<std::size_t>(std::max(matrices, 1) * size));
                       for (std::int64_t at = begin; at < end; ++at) {
                         run(static_cast<std::size_t>(at / tasks), at % tasks, walk);
                       }
                     });
  pool_.parallel_for(rows.count * value_heads, 8, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int64_t row = at / value_heads, value = at % value_heads * d;
      float* head = out.row(row) + value;
      kernels_.gated_norm(head, head, rule.norm, in.gate.row(row) + value, d, rule.epsilon);
    }
  });
}

void CpuBackend::commit_states(std::span<const DeltaLayer> layers, const SequenceView& sequence,
                               const VerdictView& verdict, int first) {
  if (layers.empty()) return;
  const DeltaShape& s = layers[0].shape;
  const std::int64_t columns = columns_of(s), tasks = s.value_heads * columns, count = *verdict.count;
  const auto row_of = [&](std::int64_t i) { return std::int64_t{first} + verdict.nodes[i]; };
  pool_.parallel_for(static_cast<std::int64_t>(layers.size()) * tasks, 1,
                     [&](std::int64_t begin, std::int64_t end, int) {
                       for (std::int64_t at = begin; at < end; ++at) {
                         const DeltaLayer& layer = layers[static_cast<std::size_t>(at / tasks)];
                         const std::int64_t task = at % tasks, head = task / columns;
                         float* matrix = matrix_of(layer, sequence.state, head, task % columns);
                         for (std::int64_t i = 0; i < count; ++i) {
                           const std::int64_t row = row_of(i);
                           kernels_.delta_keep(matrix, layer.keys + row * s.key_dim() + head % s.key_heads * s.head_dim,
                                               layer.deltas + row * s.value_dim() + task * kDeltaColumns,
                                               layer.decays[row * s.value_heads + head], s.head_dim);
                         }
                       }
                     });
  for (const DeltaLayer& layer : layers) {
    shift_window(state_of(layer, sequence.state), s, count,
                 [&](std::int64_t i) { return layer.inputs + row_of(i) * s.channels(); });
  }
}

void CpuBackend::copy_state(std::span<const DeltaLayer> layers, int from, int to) {
  for (const DeltaLayer& layer : layers) {
    const auto bytes = sizeof(float) * static_cast<std::size_t>(layer.shape.state_floats());
    if (from < 0) {
      std::memset(state_of(layer, to), 0, bytes);
    } else {
      std::memcpy(state_of(layer, to), state_of(layer, from), bytes);
    }
  }
}

}  // namespace frspec::cpu
