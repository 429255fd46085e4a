// CPU backend: choosing tokens, from logits that exist or from those of a head (columns.h). Sums of the softmax are
// kept by chunk and added in the order of the columns.
#include <algorithm>
#include <cmath>

#include "cpu/columns.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr float kMostNoise = 23.0f;  // no gumbel_from_bits is larger: -log of half of 2^-32 is 22.9

constexpr int kMostRunners = 64;  // of head_sample's `best`

struct BestToken {
  float value;
  std::int32_t token;
};

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

void CpuBackend::for_each_chunk(const Columns& columns, const ReduceChunk& reduce) {
  if (columns.logits.data == nullptr && columns.head.listed != nullptr) return for_each_chunk_of_list(columns, reduce);
  const std::int64_t count = columns.count(), rows = columns.rows();
  const bool computed = columns.logits.data == nullptr;
  Activations x;
  if (computed) x = prepare({columns.hidden}, kernels_.form(columns.head.weight->type()));
  pool_.parallel_for(columns.chunks(), 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    float* logits = computed
                        ? row_scratch_[static_cast<std::size_t>(worker)].floats(static_cast<std::size_t>(rows * kChunk))
                        : nullptr;
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kChunk, width = std::min(kChunk, count - first);
      if (computed) {
        const auto& weight = static_cast<const CpuWeight&>(*columns.head.weight);
        // Whole pairs of panels, also where only the first rows are asked for: a pair is packed as one.
        constexpr std::int64_t kRows = std::int64_t{kPair} * kPanel;
        const std::int64_t whole = std::min((width + kRows - 1) / kRows * kRows, weight.rows() - first);
        logits_of(x, weight, first, whole, logits, kChunk, worker);
        if (const LogitRule& rule = weight.logit_rule(); rule.changes()) {
          for (std::int64_t r = 0; r < rows; ++r) {
            kernels_.to_logits(logits + r * kChunk, width, rule.scale, rule.cap);
          }
        }
        reduce(logits, kChunk, first, width, chunk, worker);
      } else {
        reduce(columns.logits.data + first, columns.logits.stride, first, width, chunk, worker);
      }
    }
  });
}

void CpuBackend::find_best(const BestTokens& out, const Columns& columns) {
  const std::int64_t rows = columns.rows(), chunks = columns.chunks(), workers = pool_.size();
  const int k = out.k;
  const BestMemory memory(partial_.bytes(BestMemory::bytes(chunks, rows, k, workers)), chunks, rows, k);
  for (std::int64_t i = 0; i < workers * rows; ++i) *memory.list(i / rows, i % rows).kept = 0;
  for_each_chunk(columns, [&](const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count,
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
      const BestList best{&kept, out.ids + r * k, out.scores + r * k, k};
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
      if (out.log_sums != nullptr) out.log_sums[r] = log_sum;
      for (int i = 0; i < k; ++i) {
        const float log_prob = best.values[i] - log_sum;
        // Rounding may lift it above 0; logits that are not finite may leave no number at all.
        best.values[i] = log_prob < 0.0f ? log_prob : (log_prob >= 0.0f ? 0.0f : -1e30f);
        best.ids[i] = columns.token(r, best.ids[i]);
      }
    }
  });
}

void CpuBackend::choose(std::int32_t* tokens, const Rows& rows, const Sampling& sampling, const Columns& columns,
                        const BestTokens* runners) {
  const bool noisy = sampling.temperature > 0.0f;
  const std::int64_t workers = pool_.size();
  const int k = runners != nullptr ? runners->k : 0;
  const std::size_t best_bytes = BestMemory::bytes(0, rows.count, k, workers);
  std::byte* memory = partial_.bytes(best_bytes + static_cast<std::size_t>(workers * rows.count) * sizeof(BestToken));
  const BestMemory lists(memory, 0, rows.count, k);
  for (std::int64_t i = 0; i < workers * rows.count; ++i) *lists.list(i / rows.count, i % rows.count).kept = 0;
  auto* choices = reinterpret_cast<BestToken*>(memory + best_bytes);  // by worker and row
  std::fill_n(choices, workers * rows.count, BestToken{kLowest, -1});
  for_each_chunk(columns, [&](const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count,
                              std::int64_t, int worker) {
    // Rows that stand at the same position, as the nodes of a level do, share their noise.
    float noise[kChunk], noisy_logits[kChunk];
    std::int64_t noise_position = -1;
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const float* x = logits + r * stride;
      if (k > 0) {
        const BestList list = lists.list(worker, r);
        float bar = list.bar();
        offer_best(
            kernels_, x, count,
            [&](float value, std::int64_t column) {
              if (!std::isnan(value)) list.offer(value, static_cast<std::int32_t>(first + column));
              bar = list.bar();
            },
            bar);
      }
      BestToken& best = choices[worker * rows.count + r];
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
      const std::int64_t position = *rows.sequence.length + depth + 1;
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
    BestToken best{kLowest, -1};
    for (std::int64_t w = 0; w < workers; ++w) {
      const BestToken& c = choices[w * rows.count + r];
      if (c.token >= 0 && is_better(c.value, c.token, best.value, best.token)) best = c;
    }
    tokens[r] = best.value < -kLowest ? best.token : -1;
    if (k == 0) continue;
    std::int32_t kept = 0;
    float values[kMostRunners];
    const BestList merged{&kept, runners->ids + r * k, values, k};
    for (std::int64_t w = 0; w < workers; ++w) {
      const BestList list = lists.list(w, r);
      for (int i = 0; i < *list.kept; ++i) merged.offer(list.values[i], list.ids[i]);
    }
    for (; kept < k; ++kept) merged.ids[kept] = -1;  // logits that are no numbers
  }
}

void CpuBackend::top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) {
  find_best({.ids = ids, .scores = log_probs, .k = k}, Columns::of_logits(logits, column_ids));
}

void CpuBackend::sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) {
  choose(tokens, rows, sampling, Columns::of_logits(logits), nullptr);
}

void CpuBackend::head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                             const Sampling& sampling, const BestTokens* best) {
  choose(tokens, rows, sampling, Columns::of_head(hidden, {.weight = &weight}), best);
}

}  // namespace frspec::cpu
