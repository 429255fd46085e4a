// CPU backend: the heads of drafters. Their best tokens under noise, heads whose columns are picked one by one, and the
// choice of candidates for them.
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "cpu/columns.h"
#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

constexpr int kMostCandidates = 256;     // that are kept under noise, where the target's chain leaves no more
constexpr float kOutOfChain = 100.0f;    // what a token loses that the target's chain will take out: others come first
constexpr std::int64_t kSampled = 1024;  // scores of which the threshold of candidates is guessed

// Where the target's chain takes all but a few tokens out, these few are found first and noise is drawn for them alone.
bool leaves_few(const DraftNoise& noise) { return noise.top_k > 0 && noise.top_k <= kMostCandidates; }

std::uint64_t position_of(const DraftNoise& noise) {
  return static_cast<std::uint64_t>(*noise.position + noise.offset);
}

// The noise of `count` columns of a row from `first` on. Where rows have no lists it is the same for all of them: they
// choose tokens for one position.
void noise_of_columns(const Kernels& kernels, const Columns& columns, std::int64_t row, std::int64_t first,
                      std::int64_t count, const DraftNoise& noise, float* gumbel) {
  const HeadColumns& head = columns.head;
  const std::uint64_t position = position_of(noise), seed = noise.draw.seed;
  if (head.listed == nullptr && noise.token_of_id == nullptr) {
    if (head.ids != nullptr) return kernels.gumbel_list(gumbel, head.ids + first, count, position, seed);
    return kernels.gumbel_run(gumbel, static_cast<std::uint32_t>(first), count, position, seed);
  }
  std::int32_t tokens[kChunk];
  for (std::int64_t i = 0; i < count; ++i) {
    tokens[i] = columns.token(row, first + i);
    if (noise.token_of_id != nullptr) tokens[i] = noise.token_of_id[tokens[i]];
  }
  kernels.gumbel_list(gumbel, tokens, count, position, seed);
}

// The logarithm of the sum of exp(values), best first.
double log_sum_of(const float* values, int count) {
  const auto best = static_cast<double>(values[0]);
  double total = 0.0;
  for (int i = 0; i < count; ++i) total += std::exp(static_cast<double>(values[i]) - best);
  return best + std::log(total);
}

void subtract(float* values, int count, double log_sum) {
  for (int i = 0; i < count; ++i) {
    values[i] = static_cast<float>(std::min(0.0, static_cast<double>(values[i]) - log_sum));
  }
}

}  // namespace

void CpuBackend::for_each_chunk_of_list(const Columns& columns, const ReduceChunk& reduce) {
  const auto& table = static_cast<const CpuWeight&>(*columns.head.weight);
  const std::int64_t rows = columns.rows(), count = columns.count(), dim = table.cols();
  const std::int64_t per_row = (dim + 15) / 16;
  float* sums = sums_.floats(static_cast<std::size_t>(rows * per_row));
  for (std::int64_t r = 0; r < rows; ++r) kernels_.sums_of_16(sums + r * per_row, columns.hidden.row(r), dim);
  RowProduct product{.type = table.type(),
                     .table = table.table(),
                     .row_bytes = static_cast<std::int64_t>(row_bytes(table.type(), static_cast<std::size_t>(dim))),
                     .cols = dim};
  pool_.parallel_for(columns.chunks(), 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    float* logits = row_scratch_[static_cast<std::size_t>(worker)].floats(static_cast<std::size_t>(rows * kListChunk));
    RowProduct part = product;
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kListChunk;
      part.count = std::min(kListChunk, count - first);
      for (std::int64_t r = 0; r < rows; ++r) {
        part.rows = columns.head.listed + r * count + first;
        part.x = columns.hidden.row(r);
        part.sums = sums + r * per_row;
        part.out = logits + r * kListChunk;
        kernels_.dot_rows(part);
        if (const LogitRule& rule = table.logit_rule(); rule.changes()) {
          kernels_.to_logits(part.out, part.count, rule.scale, rule.cap);
        }
      }
      reduce(logits, kListChunk, first, part.count, chunk, worker);
    }
  });
}

// The best columns of each row under the noise, best first: tokens and noisy logits; and the largest logit without.
void CpuBackend::find_noisy(const BestTokens& out, float* largest, const Columns& columns, const DraftNoise& noise) {
  const std::int64_t rows = columns.rows(), workers = pool_.size();
  const int wide = out.k;
  const bool listed = columns.head.listed != nullptr;
  const BestMemory memory(partial_.bytes(BestMemory::bytes(workers, rows, wide, workers)), workers, rows, wide);
  for (std::int64_t i = 0; i < workers * rows; ++i) {
    *memory.list(i / rows, i % rows).kept = 0;
    memory.sum(i / rows, i % rows).maximum = kLowest;
  }
  for_each_chunk(columns, [&](const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count,
                              std::int64_t, int worker) {
    float gumbel[kChunk], noisy[kChunk];
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* x = logits + r * stride;
      if (r == 0 || listed) noise_of_columns(kernels_, columns, r, first, count, noise, gumbel);
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
    const BestList best{&kept, out.ids + r * wide, out.scores + r * wide, wide};
    largest[r] = kLowest;
    for (std::int64_t w = 0; w < workers; ++w) {
      const BestList list = memory.list(w, r);
      for (int i = 0; i < *list.kept; ++i) best.offer(list.values[i], list.ids[i]);
      largest[r] = std::max(largest[r], memory.sum(w, r).maximum);
    }
    for (int i = 0; i < wide; ++i) best.ids[i] = columns.token(r, best.ids[i]);
  }
}

void CpuBackend::head_top_k(const BestTokens& out, Tensor hidden, const HeadColumns& head, const DraftNoise* noise) {
  const Columns columns = Columns::of_head(hidden, head);
  if (noise == nullptr) return find_best(out, columns);
  // Without few candidates every token gets its noise, and some more are kept than wanted, for min-p to choose from.
  const auto count = static_cast<int>(columns.count());
  const bool few = leaves_few(*noise);
  const int k = out.k;
  const int wide = few ? std::clamp(noise->top_k, k, count) : std::min(noise->min_p > 0.0f ? 4 * k : k, count);
  const std::int64_t rows = hidden.rows;
  const auto kept_in_all = static_cast<std::size_t>(rows * wide);
  auto* candidates =
      reinterpret_cast<std::int32_t*>(candidates_.bytes((2 * kept_in_all + static_cast<std::size_t>(rows)) * 4));
  auto* values = reinterpret_cast<float*>(candidates + kept_in_all);
  auto* largest = values + kept_in_all;
  const BestTokens found{.ids = candidates, .scores = values, .k = wide};
  if (few) {
    find_best(found, columns);
  } else {
    find_noisy(found, largest, columns, *noise);
  }
  const float least = noise->min_p > 0.0f ? std::log(noise->min_p) : kLowest;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int32_t kept = 0;
    const BestList best{&kept, out.ids + r * k, out.scores + r * k, k};
    const float* x = values + r * wide;
    double sum = 0.0;
    for (int i = 0; i < wide; ++i) {
      const std::int32_t id = candidates[r * wide + i];
      const float g = gumbel(noise->draw.seed, position_of(*noise),
                             static_cast<std::uint32_t>(noise->token_of_id != nullptr ? noise->token_of_id[id] : id));
      const float noisy = few ? x[i] / noise->draw.temperature + g : x[i];
      const float behind = few ? x[i] - x[0] : (x[i] - g) * noise->draw.temperature - largest[r];
      // What the target's chain will take out comes last: a tree wants its children, all the same.
      const bool out_of_chain = behind < least || (few && sum >= static_cast<double>(noise->top_p));
      if (few) sum += std::exp(static_cast<double>(x[i]));
      best.offer(out_of_chain ? noisy - kOutOfChain : noisy, id);
    }
    const double log_sum = log_sum_of(best.values, k);
    subtract(best.values, k, log_sum);
    if (out.log_sums != nullptr) out.log_sums[r] = static_cast<float>(log_sum);
  }
}

// The `count` best columns of scores (n), ascending; ties go to the lower column. A threshold that lets a few more
// through is guessed from some of the scores; what passes it is few enough to look at closely.
static void best_columns(const Kernels& kernels, std::int32_t* columns, std::int64_t count, const float* scores,
                         std::int64_t n, std::vector<float>& values, std::vector<std::int32_t>& passed) {
  std::int64_t found = 0, wanted = count;
  passed.resize(static_cast<std::size_t>(std::min(n, 4 * count + 2 * kSampled)));
  const auto room = static_cast<std::int64_t>(passed.size());
  const std::int64_t step = std::max<std::int64_t>(1, n / kSampled);
  float threshold = kLowest;
  for (int attempt = 0; attempt < 3; ++attempt) {
    values.clear();
    for (std::int64_t i = 0; i < n; i += step) values.push_back(std::isnan(scores[i]) ? kLowest : scores[i]);
    // The share that is wanted, and more for the luck of the draw.
    const std::int64_t share = wanted / step;
    const auto rank = share + static_cast<std::int64_t>(3.0 * std::sqrt(static_cast<double>(share))) + 4;
    if (rank >= static_cast<std::int64_t>(values.size())) break;
    std::nth_element(values.begin(), values.begin() + rank, values.end(), std::greater<>());
    threshold = values[static_cast<std::size_t>(rank)];
    if (threshold == kLowest) break;  // NaN is as good, but columns_from passes over it
    found = kernels.columns_from(passed.data(), room, scores, n, threshold);
    if (found >= count && found <= room) break;
    wanted = found < count ? wanted * 2 : wanted / 2;
    found = 0;
  }
  if (found == 0) {  // scores that no sample tells anything about: all are looked at
    passed.resize(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) passed[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
    found = n;
  }
  const auto value_of = [scores](std::int32_t column) { return std::isnan(scores[column]) ? kLowest : scores[column]; };
  values.clear();
  for (std::int64_t i = 0; i < found; ++i) values.push_back(value_of(passed[static_cast<std::size_t>(i)]));
  std::nth_element(values.begin(), values.begin() + (count - 1), values.end(), std::greater<>());
  const float bar = values[static_cast<std::size_t>(count - 1)];
  std::int64_t ties = count - std::count_if(values.begin(), values.end(), [bar](float v) { return v > bar; });
  for (std::int64_t i = 0, kept = 0; kept < count; ++i) {
    const std::int32_t column = passed[static_cast<std::size_t>(i)];
    const float value = value_of(column);
    if (value > bar || (value == bar && ties-- > 0)) columns[kept++] = column;
  }
}

void CpuBackend::head_candidates(std::int32_t* out, int count, Tensor hidden, const HeadColumns& head,
                                 const DraftNoise* noise) {
  const Columns columns = Columns::of_head(hidden, head);
  const std::int64_t rows = hidden.rows, n = columns.count();
  const bool noisy = noise != nullptr && !leaves_few(*noise);
  float* scores = scores_.floats(static_cast<std::size_t>(rows * n));
  for_each_chunk(columns, [&](const float* logits, std::int64_t stride, std::int64_t first, std::int64_t width,
                              std::int64_t, int) {
    float gumbel[kChunk];
    if (noisy) noise_of_columns(kernels_, columns, 0, first, width, *noise, gumbel);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* x = logits + r * stride;
      float* to = scores + r * n + first;
      if (noisy) {
        kernels_.add_noise(to, x, noise->draw.temperature, gumbel, width);
      } else {
        std::copy_n(x, width, to);
      }
    }
  });
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    SelectionScratch& scratch = selection_[static_cast<std::size_t>(worker)];
    for (std::int64_t r = begin; r < end; ++r) {
      best_columns(kernels_, out + r * count, count, scores + r * n, n, scratch.values, scratch.columns);
    }
  });
}

void CpuBackend::merge_top_k(const BestTokens& best, const BestTokens& other, int rows, bool noisy) {
  const int k = best.k;
  std::vector<std::int32_t>& ids = selection_[0].columns;
  std::vector<float>& values = selection_[0].values;
  for (std::int64_t r = 0; r < rows; ++r) {
    ids.resize(static_cast<std::size_t>(k));
    values.resize(static_cast<std::size_t>(k));
    std::int32_t kept = 0;
    const BestList list{&kept, ids.data(), values.data(), k};
    const std::int32_t* mine = best.ids + r * k;
    const double sum = static_cast<double>(best.log_sums[r]), other_sum = static_cast<double>(other.log_sums[r]);
    for (int i = 0; i < k; ++i) list.offer(best.scores[r * k + i] + best.log_sums[r], mine[i]);
    double counted_twice = 0.0;  // of exp(logit - other_sum)
    for (int i = 0; i < k; ++i) {
      const std::int32_t id = other.ids[r * k + i];
      const float score = other.scores[r * k + i];
      if (std::find(mine, mine + k, id) == mine + k) {
        list.offer(score + other.log_sums[r], id);
      } else {
        counted_twice += std::exp(static_cast<double>(score));
      }
    }
    double log_sum = 0.0;
    if (noisy) {
      log_sum = log_sum_of(values.data(), k);
    } else {
      const double most = std::max(sum, other_sum);
      log_sum = most + std::log(std::exp(sum - most) + std::exp(other_sum - most) * std::max(0.0, 1.0 - counted_twice));
    }
    std::copy_n(ids.data(), k, best.ids + r * k);
    std::copy_n(values.data(), k, best.scores + r * k);
    subtract(best.scores + r * k, k, log_sum);
    best.log_sums[r] = static_cast<float>(log_sum);
  }
}

}  // namespace frspec::cpu
