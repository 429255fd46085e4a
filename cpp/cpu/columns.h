// Columns of logits, where they come from and which tokens they are; and the best of them, as they are found.
//
// Logits of a head never exist as a whole: each chunk of columns is computed, looked through, and forgotten. The best
// columns are best in one order, value first and then the lower column, so it does not matter who found them or when:
// every worker keeps its own, and they are merged in the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "backend/backend.h"

namespace frspec::cpu {

inline constexpr std::int64_t kChunk = 512;     // columns of a chunk
inline constexpr std::int64_t kListChunk = 64;  // of a list that a row has of its own
inline constexpr std::int64_t kBlock = 64;      // columns that are looked at together
inline constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Calls what it was made of, which outlives it. A std::function would allocate in every step.
class ReduceChunk {
 public:
  template <class Reduce>
  ReduceChunk(const Reduce& reduce)
      : context_(&reduce),
        call_([](const void* context, const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count,
                 std::int64_t chunk,
                 int worker) { (*static_cast<const Reduce*>(context))(logits, stride, first, count, chunk, worker); }) {
  }

  void operator()(const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count, std::int64_t chunk,
                  int worker) const {
    call_(context_, logits, stride, first, count, chunk, worker);
  }

 private:
  const void* context_;
  void (*call_)(const void* context, const float* logits, std::int64_t stride, std::int64_t first, std::int64_t count,
                std::int64_t chunk, int worker);
};

// Logits that are there, or those of a head.
struct Columns {
  Tensor logits = {};  // data is null: hidden head.weight^T
  Tensor hidden = {};
  HeadColumns head = {};

  static Columns of_logits(Tensor logits, const std::int32_t* ids = nullptr) { return {logits, {}, {.ids = ids}}; }
  static Columns of_head(Tensor hidden, const HeadColumns& head) { return {{}, hidden, head}; }

  std::int64_t rows() const { return logits.data != nullptr ? logits.rows : hidden.rows; }
  std::int64_t count() const {
    return logits.data != nullptr ? logits.cols : head.count > 0 ? head.count : head.weight->rows();
  }
  std::int64_t chunk() const { return head.listed != nullptr ? kListChunk : kChunk; }
  std::int64_t chunks() const { return (count() + chunk() - 1) / chunk(); }
  // The token of a column of a row.
  std::int32_t token(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = head.listed != nullptr ? head.listed[row * head.count + column] : column;
    return head.ids != nullptr ? head.ids[at] : static_cast<std::int32_t>(at);
  }
};

inline bool is_better(float value, std::int32_t column, float other, std::int32_t other_column) {
  return value > other || (value == other && column < other_column);
}

// The best columns that were seen in a row, best first: `k` ids and values, of which `kept` are there.
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

// What the log-softmax needs of a chunk: sum of exp(logit - maximum).
struct ChunkSum {
  double sum;
  float maximum;
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

}  // namespace frspec::cpu
