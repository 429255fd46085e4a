// CUDA backend: gated delta layers. A state is the window of the convolution, (taps - 1, channels), then for each value
// head a matrix (keys, values). A thread has a column of a matrix, so that neither what a pass holds nor how it is cut
// changes the order of a sum.
//
// Memory. All accesses are 4 bytes a lane, neighbouring lanes neighbouring columns.
//   mix_rows: a block per head of a row. A row's projections are read once for each tap, from L2 but for the first
//     time. go_along: a warp per 32 columns of a head; their matrix is read and written once for all rows of a chain,
//     and lies in shared memory in between; keys and queries are the same for all lanes. walk_tree: the same, but the
//     matrices of a path lie in scratch memory, one for each depth, and come from L2; leaves write none. `norm_heads`:
//     a warp per head. keep_rows: a warp per 32 columns of a head and layer, which reads and writes them once.
#include <algorithm>
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/device/activation.cuh"
#include "cuda/device/block.cuh"
#include "cuda/device/numbers.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/kv_cache.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

static_assert(kDeltaUnit == kWarp);
constexpr int kThreads = 256;
constexpr int kHeadsPerBlock = 4;

// What the convolution makes of a pass, and the gates.
struct Mixed {
  float* rows;       // (rows, channels)
  float* decays;     // (rows, value_heads)
  float* strengths;  // (rows, value_heads)
};

// The rows of one sequence in a pass.
struct Group {
  Rows rows;
  std::int64_t first;  // row of the pass
  std::int64_t kept;   // row of what is kept of trees; chains have none
  float* state;

  __device__ bool is_chain() const { return rows.depth == nullptr; }
};

// ln(1 + e^x).
__device__ inline float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// Grid: x: the row; y: its heads: of queries, of keys, of values.
__global__ void __launch_bounds__(kThreads)
    mix_rows(Mixed mixed, DeltaInputs in, DeltaRule rule, DeltaLayer layer, Group group) {
  SharedMemory shared;
  float* scratch = shared.take<float>(kThreads / kWarp);
  const DeltaShape& s = layer.shape;
  const std::int64_t channels = s.channels(), keys = s.key_dim(), value_heads = s.value_heads;
  const Rows& rows = group.rows;
  const int r = block_x(), depth = depth_of(rows, r);
  const std::int64_t row = group.first + r, kept = group.kept + r;
  const std::int64_t begin = std::int64_t{block_y()} * s.head_dim;
  float* out = mixed.rows + row * channels;
  float squares = 0.0f;
  for (std::int64_t c = begin + thread(); c < begin + s.head_dim; c += threads()) {
    float total = 0.0f;
    for (int tap = 0; tap < s.taps; ++tap) {
      const int up = s.taps - 1 - tap;
      const float* from = up > depth ? group.state + (s.taps - 1 + depth - up) * channels
                          : group.is_chain()
                              ? in.mixed.row(row - up)
                              : in.mixed.row(group.first + rows.path[std::int64_t{r} * rows.path_stride + depth - up]);
      total = fma(from[c], rule.taps[tap * channels + c], total);
    }
    const float value = total / (std::exp(-total) + 1.0f);
    out[c] = value;
    squares = fma(value, value, squares);
  }
  if (begin < 2 * keys) {
    const float scale = 1.0f / std::sqrt(block_sum(squares, scratch) + rule.epsilon);
    for (std::int64_t c = begin + thread(); c < begin + s.head_dim; c += threads()) out[c] *= scale;
  }
  if (!group.is_chain()) {
    for (std::int64_t c = begin + thread(); c < begin + s.head_dim; c += threads()) {
      layer.inputs[kept * channels + c] = in.mixed.row(row)[c];
      if (c >= keys && c < 2 * keys) layer.keys[kept * keys + c - keys] = out[c];
    }
  }
  if (block_y() != 0) return;
  for (std::int64_t n = thread(); n < value_heads; n += threads()) {
    const float decay = std::exp(rule.decay[n] * softplus(in.decay.row(row)[n] + rule.bias[n]));
    mixed.decays[row * value_heads + n] = decay;
    mixed.strengths[row * value_heads + n] = 1.0f / (std::exp(-in.strength.row(row)[n]) + 1.0f);
    if (!group.is_chain()) layer.decays[kept * value_heads + n] = decay;
  }
}

// The window that follows the rows `row_of` gives, `count` of them; by a thread, for channel c.
template <class RowOf>
__device__ inline void shift_channel(float* window, const DeltaShape& shape, std::int64_t c, int count,
                                     RowOf&& row_of) {
  const int rows = shape.taps - 1;
  const std::int64_t channels = shape.channels();
  for (int i = 0; i < rows; ++i) {
    const int from = i - rows + count;
    window[i * channels + c] = from >= 0 ? row_of(from)[c] : window[(rows + from) * channels + c];
  }
}

// Grid: channels.
__global__ void __launch_bounds__(kThreads) shift_window(Tensor mixed, DeltaShape shape, Group group) {
  const std::int64_t c = std::int64_t{block_x()} * threads() + thread();
  if (c >= shape.channels()) return;
  shift_channel(group.state, shape, c, group.rows.count, [&](int i) { return mixed.row(group.first + i); });
}

// A lane's column of a matrix: one of its elements for each key.
struct Column {
  float* data;
  std::int64_t stride;

  __device__ float& operator[](std::int64_t key) const { return data[key * stride]; }
};

// What a lane of a warp has of a layer: column `value` of value head `head`.
struct Lane {
  const DeltaShape& shape;
  const Mixed& mixed;
  int head;
  std::int64_t value;  // among all heads' values
  float scale;

  __device__ Column state(float* state) const {
    const std::int64_t d = shape.head_dim;
    return {state + shape.window_floats() + head * d * d + value % d, d};
  }

  // One row of the rule: the column that stands before it, and where that behind it goes (nowhere without kKeeps).
  // Gives the row's output; `delta` becomes what the row adds.
  template <bool kKeeps>
  __device__ float step(std::int64_t row, Column from, Column to, float& delta) const {
    const std::int64_t d = shape.head_dim, channels = shape.channels();
    const float* query = mixed.rows + row * channels + head % shape.key_heads * d;
    const float* key = query + shape.key_dim();
    const float decay = mixed.decays[row * shape.value_heads + head];
    float even = 0.0f, odd = 0.0f;
    for (std::int64_t i = 0; i < d; i += 2) {
      even = fma(from[i], key[i], even);
      odd = fma(from[i + 1], key[i + 1], odd);
    }
    const float wanted = mixed.rows[row * channels + 2 * shape.key_dim() + value];
    delta = fma(-(even + odd), decay, wanted) * mixed.strengths[row * shape.value_heads + head];
    even = odd = 0.0f;
    for (std::int64_t i = 0; i < d; i += 2) {
      const float a = fma(key[i], delta, decay * from[i]), b = fma(key[i + 1], delta, decay * from[i + 1]);
      if constexpr (kKeeps) {
        to[i] = a;
        to[i + 1] = b;
      }
      even = fma(a, query[i], even);
      odd = fma(b, query[i + 1], odd);
    }
    return (even + odd) * scale;
  }
};

__device__ inline Lane lane_of(const DeltaShape& shape, const Mixed& mixed, float scale) {
  const int head = block_y();
  return {shape, mixed, head, std::int64_t{head} * shape.head_dim + std::int64_t{block_x()} * kWarp + lane(), scale};
}

// Grid: x: 32 values each of y: a head. A chain: the state goes on with it.
__global__ void __launch_bounds__(kWarp) go_along(Tensor out, Mixed mixed, DeltaShape shape, Group group, float scale) {
  SharedMemory shared;
  const Column column{shared.take<float>(shape.head_dim * kWarp) + lane(), kWarp};
  const Lane own = lane_of(shape, mixed, scale);
  const Column state = own.state(group.state);
  for (int i = 0; i < shape.head_dim; ++i) column[i] = state[i];
  for (int r = 0; r < group.rows.count; ++r) {
    const std::int64_t row = group.first + r;
    float delta;
    out.row(row)[own.value] = own.step<true>(row, column, column, delta);
  }
  for (int i = 0; i < shape.head_dim; ++i) state[i] = column[i];
}

// Rows of a tree in the order of their paths, which is depth first: `order`. A thread per row.
__global__ void __launch_bounds__(kThreads) order_rows(std::int32_t* order, Rows rows) {
  const int r = block_x() * threads() + thread();
  if (r >= rows.count) return;
  const std::int32_t* path = rows.path + std::int64_t{r} * rows.path_stride;
  int before = 0;
  for (int other = 0; other < rows.count; ++other) {
    const std::int32_t* its = rows.path + std::int64_t{other} * rows.path_stride;
    const int shared = std::min(rows.depth[r], rows.depth[other]);
    int i = 0;
    while (i < shared && its[i] == path[i]) ++i;
    before += its[i] != path[i] ? its[i] < path[i] : rows.depth[other] < rows.depth[r];
  }
  order[before] = r;
}

// Grid: as go_along's. A tree: the state stays. `walk`: for each warp (levels, head_dim, 32).
__global__ void __launch_bounds__(kWarp) walk_tree(Tensor out, Mixed mixed, DeltaLayer layer, Group group,
                                                   const std::int32_t* order, float* walk, int levels, float scale) {
  const DeltaShape& shape = layer.shape;
  const Lane own = lane_of(shape, mixed, scale);
  const std::int64_t size = std::int64_t{shape.head_dim} * kWarp;
  float* memory = walk + (std::int64_t{block_y()} * grid_x() + block_x()) * levels * size + lane();
  const Rows& rows = group.rows;
  for (int at = 0; at < rows.count; ++at) {
    const int r = order[at], depth = rows.depth[r];
    const std::int64_t row = group.first + r;
    const Column from = depth == 0 ? own.state(group.state) : Column{memory + (depth - 1) * size, kWarp};
    const Column to{memory + depth * size, kWarp};
    const bool is_leaf = at + 1 == rows.count || rows.depth[order[at + 1]] <= depth;
    float delta;
    out.row(row)[own.value] = is_leaf ? own.step<false>(row, from, to, delta) : own.step<true>(row, from, to, delta);
    layer.deltas[(group.kept + r) * shape.value_dim() + own.value] = delta;
  }
}

// x = rms_norm(x) silu(gate), per head. Grid: heads of all rows.
__global__ void __launch_bounds__(kHeadsPerBlock* kWarp)
    norm_heads(Tensor x, Tensor gate, DeltaShape shape, DeltaRule rule) {
  const std::int64_t at = std::int64_t{block_x()} * warps() + warp(), d = shape.head_dim;
  if (at >= x.rows * shape.value_heads) return;  // a whole warp, and no barrier of the block follows
  float* head = x.row(at / shape.value_heads) + at % shape.value_heads * d;
  const float* opens = gate.row(at / shape.value_heads) + at % shape.value_heads * d;
  float squares = 0.0f;
  for (std::int64_t i = lane(); i < d; i += kWarp) squares = fma(head[i], head[i], squares);
  const float norm = 1.0f / std::sqrt(warp_sum(squares) / static_cast<float>(d) + rule.epsilon);
  for (std::int64_t i = lane(); i < d; i += kWarp) {
    head[i] = activated(Activation::Silu, opens[i], head[i] * norm * rule.norm[i]);
  }
}

// --- Committing ---

// A few layers of one shape.
struct LayerPacket {
  static constexpr int kMost = 64;
  DeltaShape shape;
  float* states[kMost];
  const float* inputs[kMost];
  const float* keys[kMost];
  const float* deltas[kMost];
  const float* decays[kMost];
};

// Grid: x: 32 values each of y: a head; z: the layer.
__global__ void __launch_bounds__(kWarp) keep_rows(LayerPacket layers, int state, VerdictView verdict, int first) {
  const DeltaShape& shape = layers.shape;
  const int head = block_y(), layer = block_z(), count = *verdict.count;
  const std::int64_t d = shape.head_dim, value = head * d + std::int64_t{block_x()} * kWarp + lane();
  float* matrix =
      layers.states[layer] + state * shape.state_floats() + shape.window_floats() + head * d * d + value % d;
  const float* keys = layers.keys[layer] + head % shape.key_heads * d;
  for (std::int64_t i = 0; i < d; ++i) {
    float kept = matrix[i * d];
    for (int n = 0; n < count; ++n) {
      const std::int64_t row = first + verdict.nodes[n];
      const float decay = layers.decays[layer][row * shape.value_heads + head];
      kept = fma(keys[row * shape.key_dim() + i], layers.deltas[layer][row * shape.value_dim() + value], decay * kept);
    }
    matrix[i * d] = kept;
  }
}

// Grid: x: channels; y: the layer.
__global__ void __launch_bounds__(kThreads) keep_window(LayerPacket layers, int state, VerdictView verdict, int first) {
  const DeltaShape& shape = layers.shape;
  const std::int64_t c = std::int64_t{block_x()} * threads() + thread();
  if (c >= shape.channels()) return;
  const float* inputs = layers.inputs[block_y()];
  shift_channel(layers.states[block_y()] + state * shape.state_floats(), shape, c, *verdict.count,
                [&](int i) { return inputs + (first + verdict.nodes[i]) * shape.channels(); });
}

// Grid: x: parts of a state; y: the layer.
__global__ void __launch_bounds__(kThreads) copy_states(LayerPacket layers, int from, int to) {
  const std::int64_t size = layers.shape.state_floats();
  float* states = layers.states[block_y()];
  for (std::int64_t i = std::int64_t{block_x()} * threads() + thread(); i < size;
       i += std::int64_t{grid_x()} * threads()) {
    states[to * size + i] = from < 0 ? 0.0f : states[from * size + i];
  }
}

// Calls use(packet, layers in it) for every LayerPacket's worth.
template <class Use>
void for_each_packet(std::span<const DeltaLayer> layers, Use&& use) {
  for (std::size_t first = 0; first < layers.size(); first += LayerPacket::kMost) {
    LayerPacket packet = {};
    packet.shape = layers[first].shape;
    const std::size_t count = std::min<std::size_t>(LayerPacket::kMost, layers.size() - first);
    for (std::size_t i = 0; i < count; ++i) {
      const DeltaLayer& layer = layers[first + i];
      packet.states[i] = layer.states;
      packet.inputs[i] = layer.inputs;
      packet.keys[i] = layer.keys;
      packet.deltas[i] = layer.deltas;
      packet.decays[i] = layer.decays;
    }
    use(packet, static_cast<int>(count));
  }
}

int blocks_for(std::int64_t count) { return static_cast<int>((count + kThreads - 1) / kThreads); }

}  // namespace

void CudaBackend::run_delta(Tensor out, const DeltaInputs& in, const DeltaRule& rule, const DeltaLayer& layer,
                            const Rows& rows) {
  if (rows.count == 0) return;
  const DeltaShape& s = layer.shape;
  const std::int64_t channels = s.channels(), value_heads = s.value_heads;
  const int columns = s.head_dim / kWarp;
  const int levels = std::min(rows.path_stride, rows.count);  // of any tree
  float* memory = delta_rows_.take<float>(static_cast<std::size_t>(rows.count * (channels + 2 * value_heads)));
  const Mixed mixed{memory, memory + rows.count * channels, memory + rows.count * (channels + value_heads)};
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  std::int64_t kept = 0;
  for (std::size_t g = 0; g < rows.group_count(); ++g) {
    const Rows some = rows.of_group(g);
    if (some.count == 0) continue;
    const Group group{some, rows.first_of(g), kept, layer.states + some.sequence.state * s.state_floats()};
    const int heads = 2 * s.key_heads + s.value_heads, threads = std::min(s.head_dim, kThreads);
    launch("mix_rows", mix_rows, {some.count, heads}, threads, shared_bytes<float>(kThreads / kWarp), mixed, in, rule,
           layer, group);
    const Grid grid{columns, s.value_heads};
    if (some.depth == nullptr) {
      launch("shift_window", shift_window, {blocks_for(channels)}, kThreads, 0, in.mixed, s, group);
      launch("go_along", go_along, grid, kWarp, shared_bytes<float>(std::int64_t{s.head_dim} * kWarp), out, mixed, s,
             group, scale);
      continue;
    }
    kept += some.count;
    auto* order = delta_order_.take<std::int32_t>(static_cast<std::size_t>(some.count));
    auto* walk =
        delta_walk_.take<float>(static_cast<std::size_t>(s.matrix_floats()) * static_cast<std::size_t>(levels));
    launch("order_rows", order_rows, {blocks_for(some.count)}, kThreads, 0, order, some);
    launch("walk_tree", walk_tree, grid, kWarp, 0, out, mixed, layer, group, order, walk, levels, scale);
  }
  launch("norm_heads", norm_heads, {static_cast<int>((rows.count * value_heads + kHeadsPerBlock - 1) / kHeadsPerBlock)},
         kHeadsPerBlock * kWarp, 0, out.first_rows(rows.count), in.gate, s, rule);
}

void CudaBackend::commit_states(std::span<const DeltaLayer> layers, const SequenceView& sequence,
                                const VerdictView& verdict, int first) {
  for_each_packet(layers, [&](const LayerPacket& packet, int count) {
    const DeltaShape& s = packet.shape;
    launch("keep_rows", keep_rows, {s.head_dim / kWarp, s.value_heads, count}, kWarp, 0, packet, sequence.state,
           verdict, first);
    launch("keep_window", keep_window, {blocks_for(s.channels()), count}, kThreads, 0, packet, sequence.state, verdict,
           first);
  });
}

void CudaBackend::copy_state(std::span<const DeltaLayer> layers, int from, int to) {
  constexpr std::int64_t kMostBlocks = 256;
  for_each_packet(layers, [&](const LayerPacket& packet, int count) {
    const int blocks = static_cast<int>(std::min<std::int64_t>(blocks_for(packet.shape.state_floats()), kMostBlocks));
    launch("copy_states", copy_states, {blocks, count}, kThreads, 0, packet, from, to);
  });
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
