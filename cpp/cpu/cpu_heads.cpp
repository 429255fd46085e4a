// CPU backend: choosing tokens, from logits that exist or from those of a head, which never exist as a whole: each
// chunk of columns is computed, looked through, and forgotten.
//
// The best columns are best in one order, value first and then the lower column, so it does not matter who found them
// or when: every worker keeps its own, and they are merged in the end. Sums of the softmax are kept by chunk and added
// in the order of the columns.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr std::int64_t kChunk = 512;  // columns per record
constexpr std::int64_t kBlock = 64;   // columns that are looked at together
constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int kMostCandidates = 256;   // of head_noisy_top_k
constexpr float kOutOfChain = 100.0f;  // what a token loses that the target's chain will take out: others come first
constexpr float kMostNoise = 23.0f;    // no gumbel_from_bits is larger: -log of half of 2^-32 is 22.9

std::int64_t chunks_of(std::int64_t cols) { return (cols + kChunk - 1) / kChunk; }

// What the log-softmax needs of a chunk: sum of exp(logit - maximum).
struct ChunkSum {
  double sum;
  float maximum;
};

struct Choice {
  float value;
  std::int32_t token;
};

bool is_better(float value, std::int32_t column, float other, std::int32_t other_column) {
  return value > other || (value == other && column < other_column);
}

// The best columns that a worker has seen in a row, best first: `k` ids and values, of which `kept` are there.
struct BestList {
  std::int32_t* kept;
  std::int32_t* ids;
  float* values;
  int k;

  void offer(float value, std::int32_t column) const {
    if (*kept == k && !is_better(value, column, values[k - 1], ids[k - 1])) return;
    int at = *kept < k ? (*kept)++ : k - 1;
    for (; at > 0 && is_better(value, column, values[at - 1], ids[at - 1]); --at) {
      values[at] = values[at - 1];
      ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = column;
  }
  // Nothing below it can still get in.
  float bar() const { return *kept == k ? values[k - 1] : kLowest; }
};

// The memory of a top-k: sums by chunk and row, then lists by worker and row.
class BestMemory {
 public:
  BestMemory(std::byte* memory, std::int64_t chunks, std::int64_t rows, int k)
      : sums_(reinterpret_cast<ChunkSum*>(memory)),
        lists_(reinterpret_cast<std::int32_t*>(sums_ + chunks * rows)),
        rows_(rows),
        k_(k) {}

  static std::size_t bytes(std::int64_t chunks, std::int64_t rows, int k, std::int64_t workers) {
    return static_cast<std::size_t>(chunks * rows) * sizeof(ChunkSum) +
           static_cast<std::size_t>(workers * rows * (1 + 2 * std::int64_t{k})) * sizeof(std::int32_t);
  }

  ChunkSum& sum(std::int64_t chunk, std::int64_t row) const { return sums_[chunk * rows_ + row]; }
  BestList list(std::int64_t worker, std::int64_t row) const {
    std::int32_t* at = lists_ + (worker * rows_ + row) * (1 + 2 * std::int64_t{k_});
    return {at, at + 1, reinterpret_cast<float*>(at + 1 + k_), k_};
  }

 private:
  ChunkSum* sums_;
  std::int32_t* lists_;
  std::int64_t rows_;
  int k_;
};

// values, best first, to their log-softmax.
void normalize(float* values, int count) {
  const auto best = static_cast<double>(values[0]);
  double total = 0.0;
  for (int i = 0; i < count; ++i) total += std::exp(static_cast<double>(values[i]) - best);
  const double log_sum = best + std::log(total);
  for (int i = 0; i < count; ++i) {
    values[i] = static_cast<float>(std::min(0.0, static_cast<double>(values[i]) - log_sum));
  }
}

// Calls offer(value, column) for every column that may be at least as good as `best`, which offer() raises.
template <class Offer>
void offer_best(const Kernels& kernels, const float* x, std::int64_t count, Offer&& offer, const float& best) {
  for (std::int64_t block = 0; block < count; block += kBlock) {
    const std::int64_t end = std::min(block + kBlock, count);
    if (!(kernels.maximum(x + block, end - block) >= best)) continue;
    for (std::int64_t i = block; i < end; ++i) offer(x[i], i);
  }
}

}  // namespace

template <class Reduce>
void CpuBackend::for_each_chunk_of_head(Tensor hidden, const Weight& weight, Reduce&& reduce) {
  const auto& head = static_cast<const CpuWeight&>(weight);
  const Activations x = prepare({hidden}, kernels_.form(weight.type()));
  pool_.parallel_for(chunks_of(weight.rows()), 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    float* logits =
        row_scratch_[static_cast<std::size_t>(worker)].floats(static_cast<std::size_t>(hidden.rows * kChunk));
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kChunk, count = std::min(kChunk, weight.rows() - first);
      logits_of(x, head, first, count, logits, kChunk, worker);
      reduce(logits, kChunk, first, count, chunk, worker);
    }
  });
}

template <class Reduce>
void CpuBackend::for_each_chunk_of_logits(Tensor logits, Reduce&& reduce) {
  pool_.parallel_for(chunks_of(logits.cols), 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kChunk;
      reduce(logits.data + first, logits.stride, first, std::min(kChunk, logits.cols - first), chunk, worker);
    }
  });
}

template <class ForEachChunk>
void CpuBackend::find_best(std::int32_t* ids, float* log_probs, int k, std::int64_t rows, std::int64_t cols,
                           const std::int32_t* column_ids, ForEachChunk&& for_each_chunk) {
  const std::int64_t chunks = chunks_of(cols), workers = pool_.size();
  const BestMemory memory(partial_.bytes(BestMemory::bytes(chunks, rows, k, workers)), chunks, rows, k);
  for (std::int64_t i = 0; i < workers * rows; ++i) *memory.list(i / rows, i % rows).kept = 0;
  for_each_chunk([&](const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count,
                     std::int64_t chunk, int worker) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* x = logits + r * stride;
      const BestList list = memory.list(worker, r);
      ChunkSum& sum = memory.sum(chunk, r);
      sum = {0.0, kLowest};
      for (std::int64_t block = 0; block < count; block += kBlock) {
        const std::int64_t end = std::min(block + kBlock, count);
        const float most = kernels_.maximum(x + block, end - block);
        sum.maximum = std::max(sum.maximum, most);
        if (*list.kept == k && most < list.bar()) continue;
        for (std::int64_t i = block; i < end; ++i) {
          if (*list.kept == k && x[i] < list.bar()) continue;
          list.offer(std::isnan(x[i]) ? kLowest : x[i], static_cast<std::int32_t>(first + i));
        }
      }
      if (sum.maximum > kLowest) sum.sum = static_cast<double>(kernels_.sum_exp(x, count, sum.maximum));
    }
  });
  pool_.parallel_for(rows, 4, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::int32_t kept = 0;
      const BestList best{&kept, ids + r * k, log_probs + r * k, k};
      for (std::int64_t w = 0; w < workers; ++w) {
        const BestList list = memory.list(w, r);
        for (int i = 0; i < *list.kept; ++i) best.offer(list.values[i], list.ids[i]);
      }
      float maximum = kLowest;
      for (std::int64_t c = 0; c < chunks; ++c) maximum = std::max(maximum, memory.sum(c, r).maximum);
      double total = 0.0;
      for (std::int64_t c = 0; c < chunks; ++c) {
        const ChunkSum& part = memory.sum(c, r);
        if (part.sum > 0.0) {
          total += part.sum * std::exp(static_cast<double>(part.maximum) - static_cast<double>(maximum));
        }
      }
      const float log_sum = static_cast<float>(static_cast<double>(maximum) + std::log(total));
      for (int i = 0; i < k; ++i) {
        const float log_prob = best.values[i] - log_sum;
        // Rounding may lift it above 0; logits that are not finite may leave no number at all.
        best.values[i] = log_prob < 0.0f ? log_prob : (log_prob >= 0.0f ? 0.0f : -1e30f);
        if (column_ids != nullptr) best.ids[i] = column_ids[best.ids[i]];
      }
    }
  });
}

template <class ForEachChunk>
void CpuBackend::choose(std::int32_t* tokens, const Rows& rows, const Sampling& sampling,
                        ForEachChunk&& for_each_chunk) {
  const bool noisy = sampling.temperature > 0.0f;
  const std::int64_t workers = pool_.size();
  auto* choices = reinterpret_cast<Choice*>(
      partial_.bytes(static_cast<std::size_t>(workers * rows.count) * sizeof(Choice)));  // by worker and row
  std::fill_n(choices, workers * rows.count, Choice{kLowest, -1});
  for_each_chunk(
      [&](const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count, std::int64_t, int worker) {
        // Rows that stand at the same position, as the nodes of a level do, share their noise.
        float noise[kChunk], noisy_logits[kChunk];
        std::int64_t noise_position = -1;
        for (std::int64_t r = 0; r < rows.count; ++r) {
          const float* x = logits + r * stride;
          Choice& best = choices[worker * rows.count + r];
          const auto offer = [&](float value, std::int64_t column) {
            const auto token = static_cast<std::int32_t>(first + column);
            if (value > kLowest && is_better(value, token, best.value, best.token)) best = {value, token};
          };
          if (!noisy) {
            offer_best(kernels_, x, count, offer, best.value);
            continue;
          }
          // Most chunks are too unlikely for any noise to lift them: these cost no random numbers.
          if (!(kernels_.maximum(x, count) / sampling.temperature + kMostNoise >= best.value)) continue;
          const std::int64_t depth = rows.depth != nullptr ? rows.depth[r] : r;
          const std::int64_t position = *rows.prefix + depth + 1;
          if (position != noise_position) {
            kernels_.gumbel_run(noise, static_cast<std::uint32_t>(first), count, static_cast<std::uint64_t>(position),
                                sampling.seed);
            noise_position = position;
          }
          kernels_.add_noise(noisy_logits, x, sampling.temperature, noise, count);
          offer_best(kernels_, noisy_logits, count, offer, best.value);
        }
      });
  for (std::int64_t r = 0; r < rows.count; ++r) {
    Choice best{kLowest, -1};
    for (std::int64_t w = 0; w < workers; ++w) {
      const Choice& c = choices[w * rows.count + r];
      if (c.token >= 0 && is_better(c.value, c.token, best.value, best.token)) best = c;
    }
    tokens[r] = best.value < -kLowest ? best.token : -1;
  }
}

void CpuBackend::top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) {
  find_best(ids, log_probs, k, logits.rows, logits.cols, column_ids,
            [&](auto&& reduce) { for_each_chunk_of_logits(logits, reduce); });
}

void CpuBackend::head_top_k(std::int32_t* ids, float* log_probs, int k, Tensor hidden, const Weight& weight,
                            const std::int32_t* column_ids) {
  find_best(ids, log_probs, k, hidden.rows, weight.rows(), column_ids,
            [&](auto&& reduce) { for_each_chunk_of_head(hidden, weight, reduce); });
}

// The best `wide` columns of each row under the noise, best first: token ids and noisy logits; and the largest logit
// without noise. All rows choose tokens for one position, so they share its noise.
void CpuBackend::find_noisy(std::int32_t* ids, float* values, float* largest, int wide, Tensor hidden,
                            const Weight& weight, const std::int32_t* column_ids, const DraftNoise& noise) {
  const std::int64_t rows = hidden.rows, workers = pool_.size();
  const auto position = static_cast<std::uint64_t>(*noise.position + noise.offset);
  const BestMemory memory(partial_.bytes(BestMemory::bytes(workers, rows, wide, workers)), workers, rows, wide);
  for (std::int64_t i = 0; i < workers * rows; ++i) {
    *memory.list(i / rows, i % rows).kept = 0;
    memory.sum(i / rows, i % rows).maximum = kLowest;
  }
  for_each_chunk_of_head(
      hidden, weight,
      [&](const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count, std::int64_t, int worker) {
        float gumbel[kChunk], noisy[kChunk];
        if (noise.token_of_id != nullptr) {
          std::int32_t tokens[kChunk];
          for (std::int64_t i = 0; i < count; ++i) {
            tokens[i] = noise.token_of_id[column_ids != nullptr ? column_ids[first + i] : first + i];
          }
          kernels_.gumbel_list(gumbel, tokens, count, position, noise.draw.seed);
        } else if (column_ids != nullptr) {
          kernels_.gumbel_list(gumbel, column_ids + first, count, position, noise.draw.seed);
        } else {
          kernels_.gumbel_run(gumbel, static_cast<std::uint32_t>(first), count, position, noise.draw.seed);
        }
        for (std::int64_t r = 0; r < rows; ++r) {
          const float* x = logits + r * stride;
          float& most = memory.sum(worker, r).maximum;
          most = std::max(most, kernels_.maximum(x, count));
          kernels_.add_noise(noisy, x, noise.draw.temperature, gumbel, count);
          const BestList list = memory.list(worker, r);
          for (std::int64_t block = 0; block < count; block += kBlock) {
            const std::int64_t end = std::min(block + kBlock, count);
            if (*list.kept == wide && kernels_.maximum(noisy + block, end - block) < list.bar()) continue;
            for (std::int64_t i = block; i < end; ++i) {
              list.offer(std::isnan(noisy[i]) ? kLowest : noisy[i], static_cast<std::int32_t>(first + i));
            }
          }
        }
      });
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int32_t kept = 0;
    const BestList best{&kept, ids + r * wide, values + r * wide, wide};
    largest[r] = kLowest;
    for (std::int64_t w = 0; w < workers; ++w) {
      const BestList list = memory.list(w, r);
      for (int i = 0; i < *list.kept; ++i) best.offer(list.values[i], list.ids[i]);
      largest[r] = std::max(largest[r], memory.sum(w, r).maximum);
    }
    for (int i = 0; i < wide && column_ids != nullptr; ++i) best.ids[i] = column_ids[best.ids[i]];
  }
}

void CpuBackend::head_noisy_top_k(std::int32_t* ids, float* scores, int k, Tensor hidden, const Weight& weight,
                                  const std::int32_t* column_ids, const DraftNoise& noise) {
  // Where the chain takes all but a few tokens out, these few are found first and noise is drawn for them alone.
  // Elsewhere every token gets its noise, and some more are kept than wanted, for min-p to choose from.
  const auto cols = static_cast<int>(weight.rows());
  const bool few = noise.top_k > 0 && noise.top_k <= kMostCandidates;
  const int wide = few ? std::clamp(noise.top_k, k, cols) : std::min(noise.min_p > 0.0f ? 4 * k : k, cols);
  const std::int64_t rows = hidden.rows;
  const auto count = static_cast<std::size_t>(rows * wide);
  auto* candidates =
      reinterpret_cast<std::int32_t*>(candidates_.bytes((2 * count + static_cast<std::size_t>(rows)) * 4));
  auto* values = reinterpret_cast<float*>(candidates + count);
  auto* largest = values + count;
  if (few) {
    head_top_k(candidates, values, wide, hidden, weight, column_ids);
  } else {
    find_noisy(candidates, values, largest, wide, hidden, weight, column_ids, noise);
  }
  const float least = noise.min_p > 0.0f ? std::log(noise.min_p) : kLowest;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int32_t kept = 0;
    const BestList best{&kept, ids + r * k, scores + r * k, k};
    const float* x = values + r * wide;
    double sum = 0.0;
    for (int i = 0; i < wide; ++i) {
      const std::int32_t id = candidates[r * wide + i];
      const float g = gumbel(noise.draw.seed, static_cast<std::uint64_t>(*noise.position + noise.offset),
                             static_cast<std::uint32_t>(noise.token_of_id != nullptr ? noise.token_of_id[id] : id));
      const float noisy = few ? x[i] / noise.draw.temperature + g : x[i];
      const float behind = few ? x[i] - x[0] : (x[i] - g) * noise.draw.temperature - largest[r];
      // What the target's chain will take out comes last: a tree wants its children, all the same.
      const bool out = behind < least || (few && sum >= static_cast<double>(noise.top_p));
      if (few) sum += std::exp(static_cast<double>(x[i]));
      best.offer(out ? noisy - kOutOfChain : noisy, id);
    }
    normalize(scores + r * k, k);
  }
}

void CpuBackend::sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) {
  choose(tokens, rows, sampling, [&](auto&& reduce) { for_each_chunk_of_logits(logits, reduce); });
}

void CpuBackend::head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                             const Sampling& sampling) {
  choose(tokens, rows, sampling, [&](auto&& reduce) { for_each_chunk_of_head(hidden, weight, reduce); });
}

}  // namespace frspec::cpu
