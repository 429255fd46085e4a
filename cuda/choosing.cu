// CUDA backend: choosing tokens from logits.
//
// A row is cut into chunks of up to 2048 columns; a block finds what its chunk has to say about its row: its largest
// values, its maximum and the sum of its exponentials. The block of a row that is done last merges the chunks, in their
// order. Nothing but the row takes part, and the chunks depend on the number of columns only.
//
// Memory: logits are read once, 16 bytes by a thread where rows are aligned (neighbouring threads, neighbouring
// addresses, four loads in flight for each thread), and stay in registers. A chunk writes 8 bytes for each of its best
// k and 16 for its sums, which the last block reads from the L2 cache: 64 chunks times k = 10 are 5 KB for a vocabulary
// of 131072.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/device/columns.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kMostThreads = 128;
constexpr int kBatch = 1024;   // that are put in order at once
constexpr int kStaged = 1024;  // that are merged in shared memory; more of them stay where they are

// What the log-softmax needs of a chunk: sum of exp(logit - maximum).
struct ChunkSum {
  double sum;
  float maximum;
};

// What chunks leave to the block that merges them.
struct Found {
  std::int32_t* arrived;   // (rows) zero between launches
  std::uint64_t* keys;     // (rows, chunks, kept) of the best columns, in no order; 0: none
  std::uint64_t* choices;  // (rows, chunks)
  ChunkSum* sums;          // (rows, chunks)
  int kept;

  __device__ std::int64_t chunk(std::int64_t row) const { return row * grid_y() + block_y(); }
};

struct Shared {
  __device__ Shared(SharedMemory& memory, int batch_size)
      : cut(memory),
        wide(memory.take<std::uint64_t>(kWarp)),
        sums(memory.take<double>(kWarp)),
        values(memory.take<float>(kWarp)),
        counter(memory.take<int>(1)),
        staged(memory.take<std::uint64_t>(kStaged)),
        batch(memory.take<std::uint64_t>(batch_size)),
        sorted(memory.take<std::uint64_t>(batch_size)) {}
  static std::size_t bytes(int batch_size) {
    return CutMemory::bytes() + 2 * shared_bytes<std::uint64_t>(kWarp) + shared_bytes<float>(kWarp) +
           shared_bytes<int>(1) + shared_bytes<std::uint64_t>(kStaged) + 2 * shared_bytes<std::uint64_t>(batch_size);
  }

  CutMemory cut;
  std::uint64_t* wide;
  double* sums;
  float* values;
  int* counter;
  std::uint64_t* staged;
  std::uint64_t *batch, *sorted;
};

// Writes the best `found.kept` of a chunk, which have the keys (0: none). Most columns never get near: the best of each
// thread tell what is the least that can be among the best.
__device__ inline void keep_best(const std::uint64_t (&keys)[kColumnsPerThread], const Found& found, std::int64_t row,
                                 const Shared& shared) {
  const auto one = [] { return std::uint64_t{1}; };
  std::uint64_t mine = 0;
#pragma unroll
  for (int i = 0; i < kColumnsPerThread; ++i) mine = keys[i] > mine ? keys[i] : mine;
  const std::uint64_t best = block_max(mine, shared.wide);
  const auto wanted = static_cast<std::uint64_t>(found.kept);
  std::uint64_t least = 1;
  if (best > 0 && found.kept < threads()) {
    least = shared.cut.cut<false>(1, best, wanted, [&](auto&& offer) { offer(mine, one); }).key;
  }
  if (best > 0) {
    least = shared.cut
                .cut<false>(least, best, wanted,
                            [&](auto&& offer) {
#pragma unroll
                              for (int i = 0; i < kColumnsPerThread; ++i) offer(keys[i], one);
                            })
                .key;
  }
  if (thread() == 0) *shared.counter = 0;
  block_sync();
  std::uint64_t* out = found.keys + found.chunk(row) * found.kept;
#pragma unroll
  for (int i = 0; i < kColumnsPerThread; ++i) {
    if (keys[i] >= least) out[atomic_add(shared.counter, 1)] = keys[i];
  }
  block_sync();
  for (int i = *shared.counter + thread(); i < found.kept; i += threads()) out[i] = 0;
}

// Calls write(i, key) with the k best of all chunks, best first; key 0 where there are not so many.
template <class Write>
__device__ inline void merge_best(const Found& found, std::int64_t row, int k, const Shared& shared, Write&& write) {
  const int count = grid_y() * found.kept;
  const std::uint64_t* keys = found.keys + row * count;
  const auto one = [] { return std::uint64_t{1}; };
  std::uint64_t high = 0;
  for (int i = thread(); i < count; i += threads()) {
    if (count <= kStaged) shared.staged[i] = keys[i];
    high = keys[i] > high ? keys[i] : high;
  }
  if (count <= kStaged) keys = shared.staged;
  high = block_max(high, shared.wide);
  for (int done = 0; done < k;) {
    const int wanted = k - done < kBatch ? k - done : kBatch;
    std::uint64_t least = 1;
    if (high > 0) {
      least = shared.cut
                  .cut<false>(1, high, static_cast<std::uint64_t>(wanted),
                              [&](auto&& offer) {
                                for (int i = thread(); i < count; i += threads()) offer(keys[i], one);
                              })
                  .key;
    }
    if (thread() == 0) *shared.counter = 0;
    block_sync();
    for (int i = thread(); i < count; i += threads()) {
      if (keys[i] >= least && keys[i] <= high) shared.batch[atomic_add(shared.counter, 1)] = keys[i];
    }
    block_sync();
    const int here = *shared.counter;
    // Each one's place is the number of those that are better.
    for (int i = thread(); i < here; i += threads()) {
      int place = 0;
      for (int j = 0; j < here; ++j) place += shared.batch[j] > shared.batch[i] ? 1 : 0;
      shared.sorted[place] = shared.batch[i];
    }
    block_sync();
    for (int i = thread(); i < wanted; i += threads()) write(done + i, i < here ? shared.sorted[i] : 0);
    done += wanted;
    high = here == wanted ? least - 1 : 0;
  }
}

// The sum of a chunk's exponentials.
__device__ inline ChunkSum sum_of(const Chunk& chunk, const Shared& shared) {
  const float maximum = block_max(chunk.maximum(), shared.values);
  if (!(maximum > kMinusInfinity)) return {0.0, maximum};
  float sum = 0.0f;
  chunk.for_each([&](int i, std::int32_t) { sum += exp_of_difference(chunk.x[i] - maximum); });
  return {block_sum(static_cast<double>(sum), shared.sums), maximum};
}

// Of all chunks together.
__device__ inline ChunkSum merge_sums(const Found& found, std::int64_t row, const Shared& shared) {
  const int chunks = grid_y();
  const ChunkSum* sums = found.sums + row * chunks;
  float maximum = kMinusInfinity;
  for (int c = thread(); c < chunks; c += threads()) maximum = sums[c].maximum > maximum ? sums[c].maximum : maximum;
  maximum = block_max(maximum, shared.values);
  double total = 0.0;
  for (int c = thread(); c < chunks; c += threads()) {
    if (!(sums[c].sum > 0.0)) continue;
    total += sums[c].sum * std::exp(static_cast<double>(sums[c].maximum) - static_cast<double>(maximum));
  }
  return {block_sum(total, shared.sums), maximum};
}

// Grid (rows, chunks). With noise the scores are what the best are worth, else log-probabilities.
template <bool noisy>
__global__ void __launch_bounds__(kMostThreads, 4)
    find_best_columns(Columns columns, Noise noise, BestTokens best, float* largest, Found found) {
  SharedMemory memory;
  const Shared shared(memory, best.k < kBatch ? best.k : kBatch);
  const std::int64_t row = block_x();
  Chunk chunk;
  chunk.load(columns.logits, row, block_y());
  std::uint64_t keys[kColumnsPerThread] = {};
  ChunkSum sum = {};
  if constexpr (noisy) {
    sum.maximum = block_max(chunk.maximum(), shared.values);
    chunk.for_each_noisy(columns, row, noise,
                         [&](int i, std::int32_t column, float value) { keys[i] = column_key(value, column); });
  } else {
    sum = sum_of(chunk, shared);
    chunk.for_each([&](int i, std::int32_t column) { keys[i] = column_key(chunk.x[i], column); });
  }
  if (thread() == 0) found.sums[found.chunk(row)] = sum;
  keep_best(keys, found, row, shared);
  if (!is_last_block(found.arrived + row, grid_y(), shared.counter)) return;
  float log_sum = 0.0f;
  const ChunkSum all = merge_sums(found, row, shared);
  if constexpr (noisy) {
    if (thread() == 0) largest[row] = all.maximum;
  } else {
    log_sum = static_cast<float>(static_cast<double>(all.maximum) + std::log(all.sum));
    if (thread() == 0 && best.log_sums != nullptr) best.log_sums[row] = log_sum;
  }
  merge_best(found, row, best.k, shared, [&](int i, std::uint64_t key) {
    float score = value_of_key(key);
    if constexpr (!noisy) {
      score -= log_sum;
      // Rounding may lift it above 0; logits that are not finite may leave no number at all.
      score = score < 0.0f ? score : (score >= 0.0f ? 0.0f : -1e30f);
    }
    best.scores[row * best.k + i] = score;
    best.ids[row * best.k + i] = columns.token(row, column_of_key(key));
  });
}

// Grid (rows, chunks). The best column of each row, and the k best without noise.
template <bool noisy>
__global__ void __launch_bounds__(kMostThreads)
    choose_columns(std::int32_t* tokens, Tensor logits, Noise noise, std::int32_t* runners, int k, Found found) {
  SharedMemory memory;
  const Shared shared(memory, k < kBatch ? k : kBatch);
  const std::int64_t row = block_x();
  Chunk chunk;
  chunk.load(logits, row, block_y());
  std::uint64_t mine = 0;
  const auto offer = [&](float value, std::int32_t column) {
    const std::uint64_t key = value > kMinusInfinity ? column_key(value, column) : 0;
    mine = key > mine ? key : mine;
  };
  if constexpr (noisy) {
    chunk.for_each_noisy({logits}, row, noise, [&](int, std::int32_t column, float value) { offer(value, column); });
  } else {
    chunk.for_each([&](int i, std::int32_t column) { offer(chunk.x[i], column); });
  }
  mine = block_max(mine, shared.wide);
  if (thread() == 0) found.choices[found.chunk(row)] = mine;
  if (k > 0) {
    std::uint64_t keys[kColumnsPerThread] = {};
    chunk.for_each([&](int i, std::int32_t column) {
      if (chunk.x[i] == chunk.x[i]) keys[i] = column_key(chunk.x[i], column);
    });
    keep_best(keys, found, row, shared);
  }
  if (!is_last_block(found.arrived + row, grid_y(), shared.counter)) return;
  mine = 0;
  for (int c = thread(); c < grid_y(); c += threads()) {
    const std::uint64_t key = found.choices[row * grid_y() + c];
    mine = key > mine ? key : mine;
  }
  mine = block_max(mine, shared.wide);
  // Neither where there is nothing but -infinity, nor where the best is +infinity.
  if (thread() == 0) tokens[row] = mine > 0 && value_of_key(mine) < -kMinusInfinity ? column_of_key(mine) : -1;
  if (k == 0) return;
  merge_best(found, row, k, shared,
             [&](int i, std::uint64_t key) { runners[row * k + i] = key > 0 ? column_of_key(key) : -1; });
}

// Grid (rows, chunks).
__global__ void __launch_bounds__(kMostThreads)
    find_log_probs(float* out, Tensor logits, const std::int32_t* tokens, Found found) {
  SharedMemory memory;
  const Shared shared(memory, 0);
  const std::int64_t row = block_x();
  Chunk chunk;
  chunk.load(logits, row, block_y());
  const ChunkSum sum = sum_of(chunk, shared);
  if (thread() == 0) found.sums[found.chunk(row)] = sum;
  if (!is_last_block(found.arrived + row, grid_y(), shared.counter)) return;
  const ChunkSum all = merge_sums(found, row, shared);
  if (thread() != 0) return;
  const std::int32_t token = tokens[row];
  const float x = token >= 0 && token < logits.cols ? logits.row(row)[token] : kMinusInfinity;
  out[row] = static_cast<float>(static_cast<double>(x) - static_cast<double>(all.maximum) - std::log(all.sum));
}

// Scratch memory for rows of so many columns, of which k are kept by each chunk at most.
Found take_found(std::byte* memory, std::int32_t* arrived, std::int64_t rows, std::int64_t chunks, int kept) {
  Found found = {};
  found.arrived = arrived;
  found.kept = kept;
  found.keys = reinterpret_cast<std::uint64_t*>(memory);
  found.choices = found.keys + rows * chunks * kept;
  found.sums = reinterpret_cast<ChunkSum*>(found.choices + rows * chunks);
  return found;
}

std::size_t found_bytes(std::int64_t rows, std::int64_t chunks, int kept) {
  return static_cast<std::size_t>(rows * chunks) *
         (sizeof(std::uint64_t) * (static_cast<std::size_t>(kept) + 1) + sizeof(ChunkSum));
}

}  // namespace

// The best columns of each row, best first: tokens and log-probabilities; under noise, what they are worth with it and
// the row's largest logit without.
void CudaBackend::find_best(const BestTokens& best, float* largest, const Columns& columns, const Noise& noise) {
  const Tensor& x = columns.logits;
  if (x.rows == 0) return;
  const int threads = threads_for_chunks(x.cols), chunks = chunks_of(x.cols);
  const int kept = std::min(best.k, chunk_width(x.cols));
  const Found found =
      take_found(choosing_.take<std::byte>(found_bytes(x.rows, chunks, kept)),
                 choosing_arrived_.take<std::int32_t>(static_cast<std::size_t>(x.rows)), x.rows, chunks, kept);
  const Grid grid{static_cast<int>(x.rows), chunks};
  launch("find_best_columns", noise.temperature > 0.0f ? find_best_columns<true> : find_best_columns<false>, grid,
         threads, Shared::bytes(std::min(best.k, kBatch)), columns, noise, best, largest, found);
}

// As sample; and where `runners` is not null, the k best columns of each row without noise, -1 where there are not so
// many.
void CudaBackend::choose(std::int32_t* tokens, Tensor logits, const Noise& noise, std::int32_t* runners, int k) {
  if (logits.rows == 0) return;
  const int threads = threads_for_chunks(logits.cols), chunks = chunks_of(logits.cols);
  const int kept = std::min(k, chunk_width(logits.cols));
  const Found found = take_found(choosing_.take<std::byte>(found_bytes(logits.rows, chunks, kept)),
                                 choosing_arrived_.take<std::int32_t>(static_cast<std::size_t>(logits.rows)),
                                 logits.rows, chunks, kept);
  const Grid grid{static_cast<int>(logits.rows), chunks};
  launch("choose_columns", noise.temperature > 0.0f ? choose_columns<true> : choose_columns<false>, grid, threads,
         Shared::bytes(std::min(k, kBatch)), tokens, logits, noise, runners, k, found);
}

void CudaBackend::top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) {
  find_best({.ids = ids, .scores = log_probs, .k = k}, nullptr, {logits, column_ids}, {});
}

void CudaBackend::sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) {
  choose(tokens, logits.first_rows(rows.count), Noise::of_rows(rows, sampling), nullptr, 0);
}

void CudaBackend::log_probs(float* out, Tensor logits, const std::int32_t* tokens) {
  if (logits.rows == 0) return;
  const int chunks = chunks_of(logits.cols);
  const Found found =
      take_found(choosing_.take<std::byte>(found_bytes(logits.rows, chunks, 0)),
                 choosing_arrived_.take<std::int32_t>(static_cast<std::size_t>(logits.rows)), logits.rows, chunks, 0);
  launch("find_log_probs", find_log_probs, Grid{static_cast<int>(logits.rows), chunks}, threads_for_chunks(logits.cols),
         Shared::bytes(0), out, logits, tokens, found);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
