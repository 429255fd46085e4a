// CPU backend: choosing tokens, from logits that exist or from those of a head, which never exist as a whole: each
// chunk of columns is computed, reduced to a small record per row, and forgotten. Records are merged in the order of
// their columns, so who computed a chunk does not matter.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/random.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr std::int64_t kChunk = 512;  // columns per record
constexpr std::int64_t kBlock = 64;   // columns that are looked at together
constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr float kMostNoise = 23.0f;  // no gumbel_from_bits is larger: -log of half of 2^-32 is 22.9

std::int64_t chunks_of(std::int64_t cols) { return (cols + kChunk - 1) / kChunk; }

// The k best columns of a chunk, best first, and what the log-softmax needs of it: `k` ids and values behind it.
struct BestRecord {
  float maximum;
  int kept;
  double sum;  // of exp(logit - maximum)

  static std::size_t bytes(int k) { return sizeof(BestRecord) + static_cast<std::size_t>(k) * 8; }
  std::int32_t* ids() { return reinterpret_cast<std::int32_t*>(this + 1); }
  float* values(int k) { return reinterpret_cast<float*>(ids() + k); }
};

struct ChoiceRecord {
  float value;
  std::int32_t token;
};

// Adds a column to the k best so far; equal values stay in the order in which they came.
int insert_best(float value, std::int32_t column, int k, int kept, std::int32_t* ids, float* values) {
  if (kept == k && !(value > values[k - 1])) return kept;
  int at = kept < k ? kept++ : k - 1;
  for (; at > 0 && value > values[at - 1]; --at) {
    values[at] = values[at - 1];
    ids[at] = ids[at - 1];
  }
  values[at] = value;
  ids[at] = column;
  return kept;
}

}  // namespace

template <class Reduce>
void CpuBackend::for_each_chunk_of_head(Tensor hidden, const Weight& weight, Reduce&& reduce) {
  const auto& head = static_cast<const CpuWeight&>(weight);
  const Activations x = prepare({hidden}, kernels_.form(weight.type()));
  pool_.parallel_for(chunks_of(weight.rows()), 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    float* logits = row_scratch_[static_cast<std::size_t>(worker)].floats(
        static_cast<std::size_t>(hidden.rows * kChunk));
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kChunk, count = std::min(kChunk, weight.rows() - first);
      logits_of(x, head, first, count, logits, kChunk, worker);
      reduce(logits, kChunk, first, count, chunk);
    }
  });
}

template <class Reduce>
void CpuBackend::for_each_chunk_of_logits(Tensor logits, Reduce&& reduce) {
  pool_.parallel_for(chunks_of(logits.cols), 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kChunk;
      reduce(logits.data + first, logits.stride, first, std::min(kChunk, logits.cols - first), chunk);
    }
  });
}

void CpuBackend::keep_best(const float* logits, std::int64_t stride, std::int64_t rows, std::int64_t first,
                           std::int64_t count, std::int64_t chunk, int k) {
  const std::size_t bytes = BestRecord::bytes(k);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* x = logits + r * stride;
    auto& record = *reinterpret_cast<BestRecord*>(partial_.data() + static_cast<std::size_t>(chunk * rows + r) * bytes);
    record = {kLowest, 0, 0.0};
    for (std::int64_t block = 0; block < count; block += kBlock) {
      const std::int64_t end = std::min(block + kBlock, count);
      const float most = kernels_.maximum(x + block, end - block);
      record.maximum = std::max(record.maximum, most);
      if (record.kept == k && !(most > record.values(k)[k - 1])) continue;
      for (std::int64_t i = block; i < end; ++i) {
        record.kept = insert_best(std::isnan(x[i]) ? kLowest : x[i], static_cast<std::int32_t>(first + i), k,
                                  record.kept, record.ids(), record.values(k));
      }
    }
    if (record.maximum > kLowest) record.sum = static_cast<double>(kernels_.sum_exp(x, count, record.maximum));
  }
}

void CpuBackend::merge_best(std::int32_t* ids, float* log_probs, int k, std::int64_t rows, std::int64_t cols,
                            const std::int32_t* column_ids) {
  const std::int64_t chunks = chunks_of(cols);
  const std::size_t bytes = BestRecord::bytes(k);
  const auto record = [&](std::int64_t chunk, std::int64_t r) -> BestRecord& {
    return *reinterpret_cast<BestRecord*>(partial_.data() + static_cast<std::size_t>(chunk * rows + r) * bytes);
  };
  pool_.parallel_for(rows, 4, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      int kept = 0;
      float maximum = kLowest;
      for (std::int64_t c = 0; c < chunks; ++c) {
        BestRecord& from = record(c, r);
        maximum = std::max(maximum, from.maximum);
        for (int i = 0; i < from.kept; ++i) {
          if (kept == k && !(from.values(k)[i] > log_probs[r * k + k - 1])) break;
          kept = insert_best(from.values(k)[i], from.ids()[i], k, kept, ids + r * k, log_probs + r * k);
        }
      }
      double sum = 0.0;
      for (std::int64_t c = 0; c < chunks; ++c) {
        const BestRecord& from = record(c, r);
        if (from.sum > 0.0) sum += from.sum * std::exp(static_cast<double>(from.maximum) - static_cast<double>(maximum));
      }
      const float log_sum = static_cast<float>(static_cast<double>(maximum) + std::log(sum));
      for (int i = 0; i < k; ++i) {
        const float log_prob = log_probs[r * k + i] - log_sum;
        // Rounding may lift it above 0; logits that are not finite may leave no number at all.
        log_probs[r * k + i] = log_prob < 0.0f ? log_prob : (log_prob >= 0.0f ? 0.0f : -1e30f);
        if (column_ids != nullptr) ids[r * k + i] = column_ids[ids[r * k + i]];
      }
    }
  });
}

void CpuBackend::keep_choice(const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count,
                             std::int64_t chunk, const Rows& rows, const Sampling& sampling) {
  const bool noisy = sampling.temperature > 0.0f;
  auto* records = reinterpret_cast<ChoiceRecord*>(partial_.data());
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const float* x = logits + r * stride;
    const std::int64_t depth = rows.depth != nullptr ? rows.depth[r] : r;
    const auto position = static_cast<std::uint64_t>(*rows.prefix + depth + 1);
    ChoiceRecord best{kLowest, -1};
    const auto offer = [&](float value, std::int64_t column) {
      if (value > best.value) best = {value, static_cast<std::int32_t>(first + column)};
    };
    for (std::int64_t block = 0; block < count; block += kBlock) {
      const std::int64_t end = std::min(block + kBlock, count);
      const float most = kernels_.maximum(x + block, end - block);
      if (!noisy) {
        if (!(most > best.value)) continue;
        for (std::int64_t i = block; i < end; ++i) offer(x[i], i);
        continue;
      }
      // Most tokens are too unlikely for any noise to lift them: these cost no random numbers.
      if (!(most / sampling.temperature + kMostNoise > best.value)) continue;
      for (std::int64_t i = block; i < end; i += 4) {
        const std::int64_t last = std::min(i + 4, end);
        if (!(*std::max_element(x + i, x + last) / sampling.temperature + kMostNoise > best.value)) continue;
        const PhiloxBlock bits =
            philox({static_cast<std::uint32_t>((first + i) >> 2), static_cast<std::uint32_t>(position),
                    static_cast<std::uint32_t>(position >> 32), 0},
                   sampling.seed);
        for (std::int64_t v = i; v < last; ++v) {
          offer(x[v] / sampling.temperature + gumbel_from_bits(bits[static_cast<std::size_t>(v - i)]), v);
        }
      }
    }
    records[chunk * rows.count + r] = best;
  }
}

void CpuBackend::merge_choices(std::int32_t* tokens, std::int64_t rows, std::int64_t cols) {
  const auto* records = reinterpret_cast<const ChoiceRecord*>(partial_.data());
  for (std::int64_t r = 0; r < rows; ++r) {
    ChoiceRecord best{kLowest, -1};
    for (std::int64_t c = 0; c < chunks_of(cols); ++c) {
      if (records[c * rows + r].value > best.value) best = records[c * rows + r];
    }
    tokens[r] = best.value < -kLowest ? best.token : -1;
  }
}

void CpuBackend::top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) {
  partial_.bytes(static_cast<std::size_t>(chunks_of(logits.cols) * logits.rows) * BestRecord::bytes(k));
  for_each_chunk_of_logits(logits, [&](const float* x, std::int64_t stride, std::int64_t first, std::int64_t count,
                                       std::int64_t chunk) { keep_best(x, stride, logits.rows, first, count, chunk, k); });
  merge_best(ids, log_probs, k, logits.rows, logits.cols, column_ids);
}

void CpuBackend::head_top_k(std::int32_t* ids, float* log_probs, int k, Tensor hidden, const Weight& weight,
                            const std::int32_t* column_ids) {
  partial_.bytes(static_cast<std::size_t>(chunks_of(weight.rows()) * hidden.rows) * BestRecord::bytes(k));
  for_each_chunk_of_head(hidden, weight,
                         [&](const float* x, std::int64_t stride, std::int64_t first, std::int64_t count,
                             std::int64_t chunk) { keep_best(x, stride, hidden.rows, first, count, chunk, k); });
  merge_best(ids, log_probs, k, hidden.rows, weight.rows(), column_ids);
}

void CpuBackend::sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) {
  partial_.bytes(static_cast<std::size_t>(chunks_of(logits.cols) * rows.count) * sizeof(ChoiceRecord));
  for_each_chunk_of_logits(logits,
                           [&](const float* x, std::int64_t stride, std::int64_t first, std::int64_t count,
                               std::int64_t chunk) { keep_choice(x, stride, first, count, chunk, rows, sampling); });
  merge_choices(tokens, rows.count, logits.cols);
}

void CpuBackend::head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                             const Sampling& sampling) {
  partial_.bytes(static_cast<std::size_t>(chunks_of(weight.rows()) * rows.count) * sizeof(ChoiceRecord));
  for_each_chunk_of_head(hidden, weight,
                         [&](const float* x, std::int64_t stride, std::int64_t first, std::int64_t count,
                             std::int64_t chunk) { keep_choice(x, stride, first, count, chunk, rows, sampling); });
  merge_choices(tokens, rows.count, weight.rows());
}

}  // namespace frspec::cpu
