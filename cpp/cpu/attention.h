// How the CPU backend lays out keys and values, and the unit of work of attention.
//
// Both are stored head by head. Values: one row per slot. Keys: panels of 16 slots, element after element of the head,
// 16 slots in a run, so that vector lanes are keys and a score is one running sum over the head's elements.
// Element types: f16, f32, or int8 with one f16 scale per 32 elements (the format of Q8_0), scales after all codes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace frspec::cpu {

constexpr int kAttentionChunk = 64;      // keys per step of the running softmax, at absolute positions: a page's
constexpr int kAttentionSegment = 1024;  // keys whose partial result is made alone, then merged in order
constexpr int kAttentionRows = 16;       // query rows per task
constexpr int kKvBlock = 32;             // elements that share a scale

enum class CacheForm : std::uint8_t { F16, F32, Int8 };

// The keys or values of one head, and where they are int8, their scales.
struct HeadCache {
  CacheForm form = CacheForm::F16;
  std::byte* data = nullptr;
  std::byte* scales = nullptr;
};

// Query rows attending with the `group` query heads that share one K/V head: lines = rows * group.
struct AttentionTask {
  const float* q = nullptr;  // row r, head g: q + r * q_stride + g * head_dim
  std::int64_t q_stride = 0;
  float* out = nullptr;  // the same, of out
  std::int64_t out_stride = 0;
  int rows = 0;  // at most kAttentionRows
  int group = 0;
  int head_dim = 0;
  HeadCache keys;
  HeadCache values;
  const std::int32_t* pages = nullptr;   // of the sequence: kAttentionChunk slots each
  std::int32_t prefix = 0;               // logical positions below it are slots of the same number of the sequence;
  const std::int32_t* path = nullptr;    // row r's others are slots prefix + path[r * path_stride + p - prefix];
  int path_stride = 0;                   // null: slot p throughout
  const std::int32_t* length = nullptr;  // (rows) logical positions that each row sees
  const std::int32_t* first = nullptr;   // (rows) the first of them that it sees
  std::int32_t first_segment = 0;        // segments to work on
  std::int32_t last_segment = 0;
  float scale = 0.0f;
  float cap = 0.0f;              // of scores, as backend.h's AttentionRule
  const float* sinks = nullptr;  // (group) or null
  float* partial = nullptr;      // null: write `out`; else the segments' (there is one) state: (lines, head_dim + 2)
  float* scratch = nullptr;      // attention_scratch() floats, line-aligned
};

// Head dimensions are padded to whole vectors of the widest kind.
static constexpr std::int64_t padded_head(std::int64_t head_dim) { return (head_dim + 63) / 64 * 64; }

// Keys and values of a chunk; of all lines: query, scores, factors, and two states (running and of a segment) of
// result, maximum and total each.
static constexpr std::int64_t attention_scratch(std::int64_t head_dim, std::int64_t group) {
  const std::int64_t lines = kAttentionRows * group, width = padded_head(head_dim);
  return kAttentionChunk * (head_dim + width) + lines * (head_dim + kAttentionChunk + 1 + 2 * (width + 2));
}

}  // namespace frspec::cpu
