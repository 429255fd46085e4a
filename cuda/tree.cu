// CUDA backend: growing and verifying draft trees. Every operation is one launch.
//
// Memory access. All of it is small (a pool of 510 candidates has 6 KB, a tree of 60 nodes 2 KB): what counts is how
// many loads depend on each other.
//   expand        reads a level's ids and log-probabilities once, coalesced, writes them as candidates, and sorts in
//                 shared memory; the paths of the frontier are copied by lines, branch * levels words.
//   select_nodes  reads all scores once, coalesced (twice where they do not fit into shared memory, and once more for
//                 each of the 2 to 8 digits of a radix search: they are in the L2 cache), then the parents and tokens
//                 of the kept candidates, scattered; everything else is in shared memory. Writes each node once.
//   walk          copies tokens, parents and choices into shared memory, coalesced and all in flight, so that the walk
//                 itself waits for shared memory only.
//   pretend       the same.
//   map           one coalesced pass, one dependent load each.
#include "cuda/cuda_backend.h"

#include <algorithm>

#include "base/random.h"
#include "cuda/device/block.cuh"
#include "cuda/device/cut.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kMostThreads = 256;
constexpr int kCounted = 1024;  // up to so many candidates are ranked by counting, in shared memory

constexpr int keys_in_room(int candidates) { return candidates < kCounted ? candidates : kCounted; }

// Shared memory of a choice among candidates.
struct Room {
  __device__ Room(SharedMemory& shared, int candidates)
      : cut(shared),
        keys(shared.take<std::uint64_t>(keys_in_room(candidates))),
        found(shared.take<std::uint64_t>(1)),
        counts(shared.take<std::int32_t>(kMostThreads / kWarp)) {}
  static std::size_t bytes(int candidates) {
    return CutMemory::bytes() + shared_bytes<std::uint64_t>(keys_in_room(candidates)) + shared_bytes<std::uint64_t>(1) +
           shared_bytes<std::int32_t>(kMostThreads / kWarp);
  }

  CutMemory cut;         // of more candidates than are counted
  std::uint64_t* keys;   // (min(candidates, kCounted))
  std::uint64_t* found;  // (1)
  std::int32_t* counts;  // (kMostThreads / kWarp): of each warp
};

// The key of the best candidate but wanted - 1 among [first, first + count), or one that no other candidate is between;
// in every thread. 1 <= wanted <= count. A barrier before and behind it.
__device__ inline std::uint64_t key_of_place(const float* scores, int first, int count, int wanted, const Room& room) {
  if (count > kCounted) {
    return room.cut
        .cut<false>(1, ~std::uint64_t{0}, static_cast<std::uint64_t>(wanted),
                    [&](auto&& offer) {
                      for (int i = thread(); i < count; i += threads()) {
                        offer(column_key(scores[first + i], first + i), [] { return std::uint64_t{1}; });
                      }
                    })
        .key;
  }
  for (int i = thread(); i < count; i += threads()) room.keys[i] = column_key(scores[first + i], first + i);
  block_sync();
  for (int i = thread(); i < count; i += threads()) {
    const std::uint64_t key = room.keys[i];
    int better = 0;
    for (int j = 0; j < count; ++j) better += room.keys[j] > key ? 1 : 0;
    if (better == wanted - 1) *room.found = key;
  }
  block_sync();
  return *room.found;
}

// Puts the keys of the candidates that are no worse than `least` into `chosen` (shared), in the candidates' order.
// A barrier behind it.
__device__ inline void collect(const float* scores, int first, int count, std::uint64_t least, std::uint64_t* chosen,
                               const Room& room) {
  int before = 0;
  for (int base = 0; base < count; base += threads()) {
    const int i = base + thread();
    const std::uint64_t key = i < count ? column_key(scores[first + i], first + i) : 0;
    const bool is_in = i < count && key >= least;
    const unsigned in_warp = ballot(is_in);
    if (lane() == 0) room.counts[warp()] = count_bits(in_warp);
    block_sync();
    int at = before + count_bits(in_warp & ((1u << lane()) - 1));
    for (int w = 0; w < warps(); ++w) {
      if (w < warp()) at += room.counts[w];
      before += room.counts[w];
    }
    if (is_in) chosen[at] = key;
    block_sync();
  }
}

// How many of the keys are greater.
__device__ inline int place_of(std::uint64_t key, const std::uint64_t* keys, int count) {
  int better = 0;
  for (int j = 0; j < count; ++j) better += keys[j] > key ? 1 : 0;
  return better;
}

__global__ void expand(CandidatePool pool, int level, const std::int32_t* ids, const float* log_probs) {
  const int k = pool.branch;
  const int base = pool.base(level);
  const int count = (level == 0 ? 1 : k) * k;
  SharedMemory shared;
  const Room room(shared, count);
  auto* chosen = shared.take<std::uint64_t>(k);
  for (int i = thread(); i < count; i += threads()) {
    const std::int32_t parent = level == 0 ? -1 : pool.frontier[i / k];
    const float score = level == 0 ? 0.0f : pool.scores[parent];
    pool.tokens[base + i] = ids[i];
    pool.parents[base + i] = parent;
    pool.scores[base + i] = score + log_probs[i];
  }
  if (level + 1 == pool.levels) return;  // nobody continues from the last level
  for (int i = thread(); i < k * pool.levels; i += threads()) pool.previous_path[i] = pool.frontier_path[i];
  block_sync();
  const std::uint64_t least = key_of_place(pool.scores, base, count, k, room);
  collect(pool.scores, base, count, least, chosen, room);
  for (int i = thread(); i < k; i += threads()) {
    const int r = place_of(chosen[i], chosen, k);
    const std::int32_t candidate = column_of_key(chosen[i]);
    const int parent_row = (candidate - base) / k;
    pool.frontier[r] = candidate;
    pool.frontier_tokens[r] = pool.tokens[candidate];
    pool.frontier_rows[r] = parent_row;
    pool.frontier_depth[r] = level;
    std::int32_t* path = pool.frontier_path + r * pool.levels;
    for (int d = 0; d < level; ++d) path[d] = pool.previous_path[parent_row * pool.levels + d];
    path[level] = level * k + r;
  }
}

__global__ void map(std::int32_t* ids, int count, const std::int32_t* to) {
  const int i = block_x() * threads() + thread();
  if (i < count && ids[i] >= 0) ids[i] = to[ids[i]];
}

// The node of a candidate among the first `count` chosen ones; the root's where it is not among them.
__device__ inline int node_of(std::int32_t candidate, const std::uint64_t* chosen, int count) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (column_of_key(chosen[middle]) < candidate) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && column_of_key(chosen[low]) == candidate ? low + 1 : 0;
}

__global__ void select_nodes(TreeView tree, CandidatePool pool, SequenceView sequence) {
  const int kept = tree.size - 1;
  if (thread() == 0) {
    tree.tokens[0] = sequence.history[*sequence.length];
    tree.parents[0] = -1;
    tree.depth[0] = 0;
    tree.path[0] = 0;
  }
  if (kept == 0) return;
  SharedMemory shared;
  const Room room(shared, pool.capacity());
  auto* chosen = shared.take<std::uint64_t>(kept);
  auto* parents = shared.take<std::int32_t>(tree.size);  // by node
  const std::uint64_t least = key_of_place(pool.scores, 0, pool.capacity(), kept, room);
  collect(pool.scores, 0, pool.capacity(), least, chosen, room);
  for (int i = thread(); i < kept; i += threads()) {
    const int node = i + 1;
    const std::int32_t candidate = column_of_key(chosen[i]);
    const std::int32_t parent = pool.parents[candidate];
    // A parent's score is never below its child's and its index is lower, so it is kept, too, and stands before.
    const int parent_node = parent < 0 ? 0 : node_of(parent, chosen, i);
    parents[node] = parent_node;
    tree.parents[node] = parent_node;
    tree.tokens[node] = pool.tokens[candidate];
  }
  block_sync();
  for (int node = thread() + 1; node <= kept; node += threads()) {
    int depth = 0;
    for (int at = node; at > 0; at = parents[at]) ++depth;
    tree.depth[node] = depth;
    std::int32_t* path = tree.path + static_cast<std::int64_t>(node) * (tree.max_depth + 1);
    path[0] = 0;
    for (int at = node; at > 0; at = parents[at]) path[depth--] = at;
  }
}

// One warp: 32 nodes are looked at at once.
__global__ void walk(VerdictView verdict, TreeView tree, const std::int32_t* sampled) {
  SharedMemory shared;
  auto* tokens = shared.take<std::int32_t>(tree.size);
  auto* parents = shared.take<std::int32_t>(tree.size);
  auto* after = shared.take<std::int32_t>(tree.size);
  for (int i = thread(); i < tree.size; i += threads()) {
    tokens[i] = tree.tokens[i];
    parents[i] = tree.parents[i];
    after[i] = sampled[i];
  }
  block_sync();
  int count = 0;
  for (int node = 0; node >= 0;) {
    const std::int32_t token = after[node];
    if (lane() == 0) {
      verdict.nodes[count] = node;
      verdict.tokens[count] = token;
    }
    ++count;
    int next = -1;
    for (int first = node + 1; first < tree.size && next < 0; first += kWarp) {
      const int child = first + lane();
      const unsigned agree = ballot(child < tree.size && parents[child] == node && tokens[child] == token);
      if (agree != 0) next = first + lowest_bit(agree);
    }
    node = next;
  }
  if (lane() == 0) *verdict.count = count;
}

__global__ void pretend(std::int32_t* sampled, TreeView tree, const std::int32_t* prefix, float probability,
                        std::uint64_t seed) {
  SharedMemory shared;
  auto* tokens = shared.take<std::int32_t>(tree.size);
  auto* parents = shared.take<std::int32_t>(tree.size);
  for (int i = thread(); i < tree.size; i += threads()) {
    tokens[i] = tree.tokens[i];
    parents[i] = tree.parents[i];
  }
  block_sync();
  for (int node = thread(); node < tree.size; node += threads()) {
    const auto is_drafted = [&](std::int32_t token) {
      for (int child = node + 1; child < tree.size; ++child) {
        if (parents[child] == node && tokens[child] == token) return true;
      }
      return false;
    };
    const auto position = static_cast<std::uint32_t>(*prefix + tree.depth[node]);
    const std::uint32_t bits = philox({position, 0, 0, 0}, seed)[0];
    const bool agrees = static_cast<float>(bits) * 2.3283064365386963e-10f < probability;
    // The children of a node stand in the order of their scores within a level; the first is the best.
    int best = node + 1;
    while (best < tree.size && parents[best] != node) ++best;
    if (agrees && best < tree.size) {
      sampled[node] = tokens[best];
    } else if (is_drafted(sampled[node])) {
      // Another token that is nobody's child: the lowest such id.
      std::int32_t token = 0;
      while (is_drafted(token)) ++token;
      sampled[node] = token;
    }
  }
}

int threads_for(int count) { return std::clamp((count + kWarp - 1) / kWarp * kWarp, kWarp, kMostThreads); }

}  // namespace

void CudaBackend::tree_expand(const CandidatePool& pool, int level, const std::int32_t* ids, const float* log_probs) {
  const int count = (level == 0 ? 1 : pool.branch) * pool.branch;
  launch("tree_expand", expand, {}, threads_for(count), Room::bytes(count) + shared_bytes<std::uint64_t>(pool.branch),
         pool, level, ids, log_probs);
}

void CudaBackend::map_ids(std::int32_t* ids, int count, const std::int32_t* to) {
  if (count == 0) return;
  const int threads = threads_for(count);
  launch("map_ids", map, {(count + threads - 1) / threads}, threads, 0, ids, count, to);
}

void CudaBackend::tree_select(const TreeView& tree, const CandidatePool& pool, const SequenceView& sequence) {
  const std::size_t shared = tree.size == 1
                                 ? 0
                                 : Room::bytes(pool.capacity()) + shared_bytes<std::uint64_t>(tree.size - 1) +
                                       shared_bytes<std::int32_t>(tree.size);
  launch("tree_select", select_nodes, {}, tree.size == 1 ? kWarp : threads_for(pool.capacity()), shared, tree, pool,
         sequence);
}

void CudaBackend::verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) {
  launch("verify", walk, {}, kWarp, 3 * shared_bytes<std::int32_t>(tree.size), verdict, tree, sampled);
}

// All rows are processed and drawn from, not only those on the accepted path: which these are is not known beforehand,
// and the rows run side by side.
void CudaBackend::verify_logits(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                                const SamplerChain& chain, const Sampling& draw) {
  auto* sampled = walked_.take<std::int32_t>(static_cast<std::size_t>(std::max(tree.size, 4096)));
  const Tensor nodes = logits.row_range(0, tree.size);
  process(nodes, rows, tree.tokens, chain);
  sample(sampled, nodes, rows, draw);
  verify(verdict, tree, sampled);
}

void CudaBackend::pretend_acceptance(std::int32_t* sampled, const TreeView& tree, const Rows& rows, float probability,
                                     std::uint64_t seed) {
  launch("pretend_acceptance", pretend, {}, threads_for(tree.size), 2 * shared_bytes<std::int32_t>(tree.size), sampled,
         tree, rows.sequence.length, probability, seed);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
