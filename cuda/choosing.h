// Columns of logits: which tokens they are, and the noise that they are looked at with.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "cuda/namespace.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct Columns {
  Tensor logits;
  const std::int32_t* ids = nullptr;     // the token of each row of the head; null: its number
  const std::int32_t* listed = nullptr;  // (rows, logits.cols) the head's row in each column; null: the column

  static Columns of_head(Tensor logits, const HeadColumns& head) { return {logits, head.ids, head.listed}; }

  // The token of a column of a row.
  constexpr std::int32_t token(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = listed != nullptr ? listed[row * logits.cols + column] : column;
    return ids != nullptr ? ids[at] : static_cast<std::int32_t>(at);
  }
};

// A column is worth logit / temperature + gumbel(seed, position, token).
struct Noise {
  float temperature = 0.0f;  // 0: there is none
  std::uint64_t seed = 0;
  const std::int32_t* start = nullptr;  // a row's position is *start + offset + its depth
  std::int64_t offset = 0;
  const std::int32_t* depth = nullptr;  // (rows); null: 0, or of a chain the row
  bool is_chain = false;
  const std::int32_t* token_of_id = nullptr;  // the token that the noise is of, where it is another

  static Noise of_rows(const Rows& rows, const Sampling& sampling) {
    return {sampling.temperature, sampling.seed, rows.sequence.length, 1, rows.depth, rows.depth == nullptr};
  }
  static Noise of_draft(const DraftNoise& noise) {
    return {noise.draw.temperature, noise.draw.seed, noise.position, noise.offset, nullptr, false, noise.token_of_id};
  }

  constexpr std::uint64_t position(std::int64_t row) const {
    return static_cast<std::uint64_t>(*start + offset + (depth != nullptr ? depth[row] : is_chain ? row : 0));
  }
};

// How a row is cut into chunks, one for each block: by the number of its columns only.
inline constexpr int kColumnsPerThread = 16;

constexpr int threads_for_chunks(std::int64_t columns) { return columns <= 512 ? 32 : columns <= 1024 ? 64 : 128; }
constexpr int chunk_width(std::int64_t columns) { return threads_for_chunks(columns) * kColumnsPerThread; }
constexpr int chunks_of(std::int64_t columns) {
  return static_cast<int>((columns + chunk_width(columns) - 1) / chunk_width(columns));
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
