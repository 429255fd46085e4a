// CUDA backend: the heads of drafters: their best tokens under noise, candidates for heads whose columns are picked one
// by one, and what two heads say together.
//
// Memory: candidates are chosen in two launches. `score_columns` reads logits as choosing.cu does and writes their keys
// (4 bytes, coalesced) and the best of each thread's halves. `pick_columns`, one block for each row, guesses from these
// what the candidates' keys must be at least, then reads the keys once, 16 bytes by a thread and four loads in flight,
// and writes what passes, in order, mostly little more than what is wanted; the exact choice is made among these. The
// other kernels touch a few hundred bytes for each row.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/device/columns.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kMostCandidates = 256;   // that are kept under noise, where the target's chain leaves no more
constexpr float kOutOfChain = 100.0f;  // what a token loses that the target's chain will take out: others come first
constexpr int kMostWide = 1024;        // candidates that noise is drawn for
constexpr int kMostThreads = 1024;

// Where the target's chain takes all but a few tokens out, these few are found first and noise is drawn for them alone.
bool leaves_few(const DraftNoise& noise) { return noise.top_k > 0 && noise.top_k <= kMostCandidates; }

struct NoisyChoice {
  const std::int32_t* candidates;  // (rows, wide)
  const float* values;   // (rows, wide) best first: log-probabilities where they are few, else what noise made of them
  const float* largest;  // (rows) logits, where they are not few
  int wide;
  bool few;
  float top_p;
  float least;  // logarithm of min_p, or -infinity
};

// Puts `count` (value, id) in order, best first, ties to the lower id, and writes the first k of them.
__device__ inline void put_in_order(const float* values, const std::int32_t* ids, int count, int k, float* out_values,
                                    std::int32_t* out_ids) {
  for (int i = thread(); i < count; i += threads()) {
    const std::uint64_t mine = column_key(values[i], ids[i]);
    int place = 0;
    for (int j = 0; j < count; ++j) {
      const std::uint64_t other = column_key(values[j], ids[j]);
      place += other > mine || (other == mine && j < i) ? 1 : 0;
    }
    if (place < k) {
      out_values[place] = values[i];
      out_ids[place] = ids[i];
    }
  }
}

// The logarithm of the sum of exp(values), best first; every thread gets it. `weights`: shared, (count).
__device__ inline double log_sum_of(const float* values, int count, double* weights) {
  const auto best = static_cast<double>(values[0]);
  for (int i = thread(); i < count; i += threads()) weights[i] = std::exp(static_cast<double>(values[i]) - best);
  block_sync();
  double total = 0.0;
  for (int i = 0; i < count; ++i) total += weights[i];
  return best + std::log(total);
}

__device__ inline float below_zero(float value, double log_sum) {
  const double score = static_cast<double>(value) - log_sum;
  return score < 0.0 ? static_cast<float>(score) : 0.0f;
}

// Grid (rows).
__global__ void __launch_bounds__(256) choose_under_noise(BestTokens best, Noise noise, NoisyChoice choice) {
  SharedMemory memory;
  const int wide = choice.wide, k = best.k;
  auto* ids = memory.take<std::int32_t>(wide);
  auto* values = memory.take<float>(wide);
  auto* weights = memory.take<double>(wide);
  auto* best_values = memory.take<float>(k);
  const std::int64_t row = block_x();
  const float* x = choice.values + row * wide;
  if (choice.few) {
    for (int i = thread(); i < wide; i += threads()) weights[i] = std::exp(static_cast<double>(x[i]));
  }
  block_sync();
  for (int i = thread(); i < wide; i += threads()) {
    const std::int32_t id = choice.candidates[row * wide + i];
    const std::int32_t token = noise.token_of_id != nullptr ? noise.token_of_id[id] : id;
    const float g = gumbel_of(noise.seed, noise.position(row), static_cast<std::uint32_t>(token));
    const float noisy = choice.few ? x[i] / noise.temperature + g : x[i];
    const float behind = choice.few ? x[i] - x[0] : (x[i] - g) * noise.temperature - choice.largest[row];
    double above = 0.0;
    if (choice.few) {
      for (int j = 0; j < i; ++j) above += weights[j];
    }
    // What the target's chain will take out comes last: a tree wants its children, all the same.
    const bool out_of_chain = behind < choice.least || (choice.few && above >= static_cast<double>(choice.top_p));
    ids[i] = id;
    values[i] = out_of_chain ? noisy - kOutOfChain : noisy;
  }
  block_sync();
  put_in_order(values, ids, wide, k, best_values, best.ids + row * k);
  block_sync();
  const double log_sum = log_sum_of(best_values, k, weights);
  for (int i = thread(); i < k; i += threads()) best.scores[row * k + i] = below_zero(best_values[i], log_sum);
  if (thread() == 0 && best.log_sums != nullptr) best.log_sums[row] = static_cast<float>(log_sum);
}

// --- Candidates ---

constexpr int kGroup = 8;  // columns whose best is noted

struct Scores {
  std::uint32_t* keys;   // (rows, stride) of the columns, in their order; 0 behind the last
  std::uint32_t* bests;  // (rows, groups)
  std::uint64_t* list;   // (rows, stride) what passes: each warp's at its columns
  std::int64_t stride;
  int groups;
};

// Grid (rows, chunks).
template <bool noisy>
__global__ void __launch_bounds__(128) score_columns(Columns columns, Noise noise, Scores scores) {
  const std::int64_t row = block_x();
  Chunk chunk;
  chunk.load(columns.logits, row, block_y());
  std::uint32_t keys[kColumnsPerThread] = {};
  if constexpr (noisy) {
    chunk.for_each_noisy(columns, row, noise, [&](int i, std::int32_t, float value) { keys[i] = order_key(value); });
  } else {
    chunk.for_each([&](int i, std::int32_t) { keys[i] = order_key(chunk.x[i]); });
  }
  std::uint32_t* to = scores.keys + row * scores.stride + chunk.first;
#pragma unroll
  for (int i = 0; i < kColumnsPerThread; i += 4) {
    store_as(to + chunk.column(i), Words4{{keys[i], keys[i + 1], keys[i + 2], keys[i + 3]}});
  }
  std::uint32_t* bests = scores.bests + row * scores.groups + block_y() * (scores.groups / grid_y());
#pragma unroll
  for (int half = 0; half < kColumnsPerThread / kGroup; ++half) {
    std::uint32_t best = 0;
#pragma unroll
    for (int i = half * kGroup; i < (half + 1) * kGroup; ++i) best = keys[i] > best ? keys[i] : best;
    bests[half * threads() + thread()] = best;
  }
}

// Grid (rows). Every warp has a stretch of the columns of its own.
__global__ void __launch_bounds__(kMostThreads) pick_columns(std::int32_t* out, int count, Scores scores) {
  SharedMemory memory;
  const CutMemory cuts(memory);
  auto* passed = memory.take<std::int32_t>(kWarp);
  auto* largest = memory.take<std::uint32_t>(kWarp);
  const std::int64_t row = block_x();
  const std::uint32_t* keys = scores.keys + row * scores.stride;
  const std::uint32_t* bests = scores.bests + row * scores.groups;
  const auto one = [] { return std::uint64_t{1}; };
  std::uint32_t best = 0;
  for (int i = thread(); i < scores.groups; i += threads()) best = bests[i] > best ? bests[i] : best;
  best = block_max(best, largest);
  std::uint64_t bar = 1;
  if (count <= scores.groups) {
    bar = cuts.cut<false>(1, best, static_cast<std::uint64_t>(count),
                          [&](auto&& offer) {
                            for (int i = thread(); i < scores.groups; i += threads()) offer(bests[i], one);
                          })
              .key;
  }
  // What passes, in the order of the columns.
  constexpr int kStep = 4 * kWarp;
  const std::int64_t steps = scores.stride / kStep, each = (steps + warps() - 1) / warps();
  const std::int64_t begin = warp() * each * kStep;
  const std::int64_t end = begin + each * kStep < scores.stride ? begin + each * kStep : scores.stride;
  std::uint64_t* list = scores.list + row * scores.stride + begin;
  const unsigned lower = (1u << lane()) - 1;
  int mine = 0;  // of this warp
#pragma unroll 4
  for (std::int64_t at = begin; at < end; at += kStep) {
    const std::int64_t column = at + 4 * lane();
    const auto four = load_as<Words4>(keys + column);
    int before = 0, all = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned some = ballot(four.word[i] >= bar);
      before += count_bits(some & lower);
      all += count_bits(some);
    }
    int place = mine + before;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (four.word[i] < bar) continue;
      list[place++] = (std::uint64_t{four.word[i]} << 32) | (0xFFFFFFFFu - static_cast<std::uint32_t>(column + i));
    }
    mine += all;
  }
  warp_sync();
  const std::uint64_t high = (std::uint64_t{best} << 32) | 0xFFFFFFFFu;
  const std::uint64_t least = cuts.cut<false>(bar << 32, high, static_cast<std::uint64_t>(count),
                                              [&](auto&& offer) {
                                                for (int i = lane(); i < mine; i += kWarp) offer(list[i], one);
                                              })
                                  .key;
  int wanted = 0;
  for (int i = lane(); i < mine; i += kWarp) wanted += list[i] >= least ? 1 : 0;
  wanted = warp_sum(wanted);
  if (lane() == 0) passed[warp()] = wanted;
  block_sync();
  std::int64_t place = row * count;
  for (int w = 0; w < warp(); ++w) place += passed[w];
  for (int from = 0; from < mine; from += kWarp) {
    const std::uint64_t key = from + lane() < mine ? list[from + lane()] : 0;
    const unsigned some = ballot(key >= least);
    if (key >= least) out[place + count_bits(some & lower)] = column_of_key(key);
    place += count_bits(some);
  }
}

// --- Two heads together ---

// Grid (rows), one warp each. A row whose sum is no number keeps its order; one of the other head's is passed over.
__global__ void __launch_bounds__(kWarp) merge_best_tokens(BestTokens best, BestTokens other, bool noisy) {
  SharedMemory memory;
  const int k = best.k;
  auto* ids = memory.take<std::int32_t>(2 * k);
  auto* values = memory.take<float>(2 * k);
  auto* weights = memory.take<double>(k);
  auto* merged = memory.take<float>(k);
  const std::int64_t row = block_x();
  const auto sum = static_cast<double>(best.log_sums[row]), other_sum = static_cast<double>(other.log_sums[row]);
  double counted_twice = 0.0;  // of exp(logit - other_sum)
  bool numbers = true;
  for (int i = thread(); i < k; i += kWarp) {
    ids[i] = best.ids[row * k + i];
    values[i] = best.scores[row * k + i] + best.log_sums[row];
    if (!(values[i] == values[i])) numbers = false;
  }
  numbers = !block_any(!numbers);
  for (int i = thread(); i < k; i += kWarp) {
    const std::int32_t id = other.ids[row * k + i];
    const float score = other.scores[row * k + i];
    bool twice = false;
    for (int j = 0; j < k; ++j) twice = twice || ids[j] == id;
    if (twice) counted_twice += std::exp(static_cast<double>(score));
    const float value = score + other.log_sums[row];
    // The key of what is not offered is below that of every number, and behind the own ones.
    ids[k + i] = twice || !(value == value) ? 0x7FFFFFFF : id;
    values[k + i] = twice || !(value == value) ? kMinusInfinity : value;
  }
  block_sync();
  if (numbers) {
    put_in_order(values, ids, 2 * k, k, merged, best.ids + row * k);
  } else {
    for (int i = thread(); i < k; i += kWarp) merged[i] = values[i];
  }
  block_sync();
  double log_sum = 0.0;
  counted_twice = warp_sum(counted_twice);
  if (noisy) {
    log_sum = log_sum_of(merged, k, weights);
  } else {
    const double most = sum > other_sum ? sum : other_sum;
    const double rest = 1.0 - counted_twice > 0.0 ? 1.0 - counted_twice : 0.0;
    log_sum = most + std::log(std::exp(sum - most) + std::exp(other_sum - most) * rest);
  }
  for (int i = thread(); i < k; i += kWarp) best.scores[row * k + i] = below_zero(merged[i], log_sum);
  if (thread() == 0) best.log_sums[row] = static_cast<float>(log_sum);
}

}  // namespace

void CudaBackend::head_top_k(const BestTokens& best, Tensor hidden, const HeadColumns& head, const DraftNoise* noise) {
  const Columns columns = Columns::of_head(head_logits(hidden, head), head);
  if (columns.logits.rows == 0) return;
  if (noise == nullptr) return find_best(best, nullptr, columns, {});
  // Without few candidates every token gets its noise, and some more are kept than wanted, for min-p to choose from.
  const auto count = static_cast<int>(columns.logits.cols);
  const bool few = leaves_few(*noise);
  const int k = best.k;
  const int wide = few ? std::clamp(noise->top_k, k, count) : std::min(noise->min_p > 0.0f ? 4 * k : k, count);
  if (wide > kMostWide) fail("cuda: head_top_k under noise: found ", k, " tokens, expected at most ", kMostWide / 4);
  const std::int64_t rows = columns.logits.rows;
  const auto kept_in_all = static_cast<std::size_t>(rows * wide);
  auto* candidates = noisy_.take<std::int32_t>(2 * kept_in_all + static_cast<std::size_t>(rows));
  auto* values = reinterpret_cast<float*>(candidates + kept_in_all);
  auto* largest = values + kept_in_all;
  const Noise draw = Noise::of_draft(*noise);
  find_best({.ids = candidates, .scores = values, .k = wide}, largest, columns, few ? Noise{} : draw);
  const NoisyChoice choice{candidates,
                           values,
                           largest,
                           wide,
                           few,
                           noise->top_p,
                           noise->min_p > 0.0f ? std::log(noise->min_p) : kMinusInfinity};
  const int threads = wide <= 32 ? 32 : wide <= 64 ? 64 : 256;
  const std::size_t bytes = shared_bytes<std::int32_t>(wide) + shared_bytes<float>(wide) + shared_bytes<double>(wide) +
                            shared_bytes<float>(k);
  launch("choose_under_noise", choose_under_noise, Grid{static_cast<int>(rows)}, threads, bytes, best, draw, choice);
}

void CudaBackend::head_candidates(std::int32_t* columns, int count, Tensor hidden, const HeadColumns& head,
                                  const DraftNoise* noise) {
  const Columns all = Columns::of_head(head_logits(hidden, head), head);
  if (all.logits.rows == 0 || count == 0) return;
  const bool noisy = noise != nullptr && !leaves_few(*noise);
  const int chunks = chunks_of(all.logits.cols), threads = threads_for_chunks(all.logits.cols);
  const std::int64_t rows = all.logits.rows, stride = std::int64_t{chunks} * chunk_width(all.logits.cols);
  Scores scores = {};
  scores.stride = stride;
  scores.groups = static_cast<int>(stride / kGroup);
  const auto in_all = static_cast<std::size_t>(rows * stride);
  scores.list = scores_.take<std::uint64_t>(in_all + in_all / 2 + in_all / (2 * kGroup));
  scores.keys = reinterpret_cast<std::uint32_t*>(scores.list + in_all);
  scores.bests = scores.keys + in_all;
  launch("score_columns", noisy ? score_columns<true> : score_columns<false>, Grid{static_cast<int>(rows), chunks},
         threads, 0, all, noisy ? Noise::of_draft(*noise) : Noise{}, scores);
  const int most = static_cast<int>(std::min<std::int64_t>(kMostThreads, std::max<std::int64_t>(64, stride / 16)));
  launch("pick_columns", pick_columns, Grid{static_cast<int>(rows)}, most,
         CutMemory::bytes() + shared_bytes<std::int32_t>(kWarp) + shared_bytes<std::uint32_t>(kWarp), columns, count,
         scores);
}

void CudaBackend::merge_top_k(const BestTokens& best, const BestTokens& other, int rows, bool noisy) {
  if (rows == 0) return;
  const int k = best.k;
  launch(
      "merge_best_tokens", merge_best_tokens, Grid{rows}, kWarp,
      shared_bytes<std::int32_t>(2 * k) + shared_bytes<float>(2 * k) + shared_bytes<double>(k) + shared_bytes<float>(k),
      best, other, noisy);
}

void CudaBackend::head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                              const Sampling& sampling, const BestTokens* best) {
  constexpr int kRows = 64;  // at a time: for so many, memory is planned (engine/memory_plan.cpp)
  for (int first = 0; first < rows.count; first += kRows) {
    const int count = std::min(kRows, rows.count - first);
    Noise noise = Noise::of_rows(rows, sampling);
    if (noise.depth != nullptr) {
      noise.depth += first;
    } else {
      noise.offset += first;
    }
    const Tensor logits = head_logits(hidden.row_range(first, count), {.weight = &weight});
    choose(tokens + first, logits, noise, best != nullptr ? best->ids + std::ptrdiff_t{first} * best->k : nullptr,
           best != nullptr ? best->k : 0);
  }
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
