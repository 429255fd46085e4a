// Attention of a few rows over their logical sequences, with a running softmax.
//
// A row's result is a fold over its segments in order; a segment's is a fold over its chunks in order; within a chunk
// every score and every output is one running sum. So it does not matter which rows share a task, nor who computes a
// segment. A chunk before a row's window leaves its state untouched: alone, the row would not meet it. A sink is what
// the fold over segments begins with.

namespace {

constexpr int kWide = kLanes == 16 ? 4 : 2;         // vectors of a tile
constexpr int kAttendRows = 6;                      // rows of a tile
constexpr int kDirectLines = kLanes == 16 ? 6 : 8;  // so many lines read the f16 cache as it is: measured

// --- Cache to f32 ---

// Element d of 16 keys of a panel. `ahead`: slots to the chunk that is read next.
template <CacheForm kForm>
inline void load_key_run(float* out, const HeadCache& keys, std::int64_t panel, int head_dim, int d,
                         std::int64_t ahead) {
  if constexpr (kForm == CacheForm::Int8) {
    const auto* codes = reinterpret_cast<const std::int8_t*>(keys.data) + (panel * head_dim + d) * kPanel;
    const std::int64_t block = panel * (head_dim / kKvBlock) + d / kKvBlock;
    for (int i = 0; i < kPanel; i += kLanes) {
      store(out + i, load_half(keys.scales + 2 * (block * kPanel + i)) * load_signed(codes + i));
    }
  } else if constexpr (kForm == CacheForm::F32) {
    const auto* run = reinterpret_cast<const float*>(keys.data) + (panel * head_dim + d) * kPanel;
    for (int i = 0; i < kPanel; i += kLanes) store(out + i, load(run + i));
  } else {
    const std::byte* run = keys.data + 2 * (panel * head_dim + d) * kPanel;
    __builtin_prefetch(run + 2 * ahead * head_dim, 0, 3);  // the same of the next chunk
    for (int i = 0; i < kPanel; i += kLanes) store(out + i, load_half(run + 2 * i));
  }
}

// Keys of slots [first, first + count) as (head_dim, chunk); `first` is a multiple of the chunk.
template <CacheForm kForm>
inline void load_keys(float* out, const HeadCache& keys, std::int64_t first, int count, int head_dim,
                      std::int64_t ahead) {
  for (int j = 0; j < count; j += kPanel) {
    for (int d = 0; d < head_dim; ++d) {
      load_key_run<kForm>(out + d * kAttentionChunk + j, keys, (first + j) / kPanel, head_dim, d, ahead);
    }
  }
}

template <CacheForm kForm>
inline void load_one_key(float* column, const HeadCache& keys, std::int64_t slot, int head_dim) {
  const std::int64_t panel = slot / kPanel, lane = slot % kPanel;
  for (int d = 0; d < head_dim; ++d) {
    const std::int64_t at = (panel * head_dim + d) * kPanel + lane;
    if constexpr (kForm == CacheForm::Int8) {
      std::uint16_t scale;
      const std::int64_t block = panel * (head_dim / kKvBlock) + d / kKvBlock;
      __builtin_memcpy(&scale, keys.scales + 2 * (block * kPanel + lane), 2);
      column[d * kAttentionChunk] =
          one_half(scale) * static_cast<float>(reinterpret_cast<const std::int8_t*>(keys.data)[at]);
    } else if constexpr (kForm == CacheForm::F32) {
      column[d * kAttentionChunk] = reinterpret_cast<const float*>(keys.data)[at];
    } else {
      std::uint16_t half;
      __builtin_memcpy(&half, keys.data + 2 * at, 2);
      column[d * kAttentionChunk] = one_half(half);
    }
  }
}

template <CacheForm kForm>
inline void load_value(float* out, const HeadCache& values, std::int64_t slot, int head_dim, std::int64_t ahead = 0) {
  if constexpr (kForm == CacheForm::Int8) {
    const auto* codes = reinterpret_cast<const std::int8_t*>(values.data) + slot * head_dim;
    for (int first = 0; first < head_dim; first += kKvBlock) {
      std::uint16_t half;
      __builtin_memcpy(&half, values.scales + 2 * ((slot * head_dim + first) / kKvBlock), 2);
      const float scale = one_half(half);
      for (int i = 0; i < kKvBlock; i += kLanes) store(out + first + i, load_signed(codes + first + i) * scale);
    }
  } else if constexpr (kForm == CacheForm::F32) {
    __builtin_memcpy(out, reinterpret_cast<const float*>(values.data) + slot * head_dim,
                     static_cast<std::size_t>(head_dim) * sizeof(float));
  } else {
    const std::byte* row = values.data + 2 * slot * head_dim;
    int d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) {
      __builtin_prefetch(row + 2 * (d + ahead * head_dim), 0, 3);
      store(out + d, load_half(row + 2 * d));
    }
    for (; d < head_dim; ++d) {
      std::uint16_t half;
      __builtin_memcpy(&half, row + 2 * d, 2);
      out[d] = one_half(half);
    }
  }
}

// --- Small products: c[m][:] = c[m][:] * keep[m] + sum_i a[m][i] b[i][:] ---

// Where b comes from: rows of f32 in scratch ...
struct FloatRows {
  const float* data;
  std::int64_t stride;

  FloatRows behind(std::int64_t rows) const { return {data + rows * stride, stride}; }

  Floats at(std::int64_t i, std::int64_t column) const { return load(data + i * stride + column); }
};

// ... or straight from the cache, for few lines, which could not share what conversion to scratch costs. Keys of whole
// panels; values of heads that are whole vectors.
struct HalfKeys {
  const std::byte* data;
  std::int64_t head_dim;
  std::int64_t ahead;  // bytes to the chunk that is read next

  Floats at(std::int64_t i, std::int64_t column) const {
    const std::byte* run = data + 2 * ((column / kPanel * head_dim + i) * kPanel + column % kPanel);
    __builtin_prefetch(run + ahead, 0, 3);  // the same of that chunk
    return load_half(run);
  }
};

struct HalfValues {
  const std::byte* data;
  std::int64_t head_dim;
  std::int64_t ahead;

  HalfValues behind(std::int64_t rows) const { return {data + 2 * rows * head_dim, head_dim, ahead}; }

  Floats at(std::int64_t i, std::int64_t column) const {
    const std::byte* run = data + 2 * (i * head_dim + column);
    __builtin_prefetch(run + ahead, 0, 3);
    return load_half(run);
  }
};

struct SmallProduct {
  const float* a;
  std::int64_t a_stride;
  std::int64_t inner;
  float* c;
  std::int64_t c_stride;
  const float* keep;  // null: c is overwritten
};

template <int M, class Source>
inline void small_tile(const SmallProduct& p, const Source& source, std::int64_t row, std::int64_t column) {
  Floats sums[M][kWide] = {};
  const float* a = p.a + row * p.a_stride;
  float* c = p.c + row * p.c_stride + column;
  if (p.keep != nullptr) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Floats keep = splat(p.keep[row + m]);
#pragma GCC unroll 8
      for (int v = 0; v < kWide; ++v) sums[m][v] = load(c + m * p.c_stride + v * kLanes) * keep;
    }
  }
  for (std::int64_t i = 0; i < p.inner; ++i) {
    Floats b[kWide];
#pragma GCC unroll 8
    for (int v = 0; v < kWide; ++v) b[v] = source.at(i, column + v * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Floats value = splat(a[m * p.a_stride + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kWide; ++v) sums[m][v] = multiply_add(value, b[v], sums[m][v]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < kWide; ++v) store(c + m * p.c_stride + v * kLanes, sums[m][v]);
  }
}

template <class Source, int M = kAttendRows - 1>
inline void small_last(const SmallProduct& p, const Source& source, std::int64_t row, std::int64_t column,
                       std::int64_t rows) {
  if constexpr (M > 0) {
    rows == M ? small_tile<M>(p, source, row, column) : small_last<Source, M - 1>(p, source, row, column, rows);
  }
}

template <class Source>
inline void small_product(const SmallProduct& p, const Source& source, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t column = 0; column < columns; column += kWide * kLanes) {
    std::int64_t row = 0;
    for (; row + kAttendRows <= rows; row += kAttendRows) small_tile<kAttendRows>(p, source, row, column);
    if (row < rows) small_last(p, source, row, column, rows - row);
  }
}

// --- Running softmax ---

// The state of lines: `result` is (lines, padded head), not yet divided by the totals.
struct AttentionState {
  float* result;
  float* maxima;
  float* totals;
};

inline void clear(const AttentionState& s, std::int64_t lines, std::int64_t width) {
  __builtin_memset(s.result, 0, static_cast<std::size_t>(lines * width) * sizeof(float));
  for (std::int64_t i = 0; i < lines; ++i) {
    s.maxima[i] = -1e30f;
    s.totals[i] = 0.0f;
  }
}

// Turns the scores of one chunk into weights exp(score - running maximum) and updates maximum and total; returns the
// factor by which everything summed so far must be scaled. The keys are [from, count).
inline float soften(float* scores, int from, int count, float cap, float& maximum, float& total) {
  float top = maximum;
  if (cap > 0.0f) {
    for (int j = 0; j < count; j += kLanes) store(scores + j, soft_capped(load(scores + j), cap));
  }
  const int end = (count + kLanes - 1) / kLanes * kLanes;
  for (int j = 0; j < from; ++j) scores[j] = -1e30f;
  for (int j = count; j < end; ++j) scores[j] = -1e30f;
  Floats best = splat(top);
  for (int j = 0; j < end; j += kLanes) {
    const Floats value = load(scores + j);
    best = value > best ? value : best;
  }
  top = largest(best);
  Floats added = {};
  for (int j = 0; j < end; j += kLanes) {
    Floats weight = exponential(load(scores + j) - top);
    if (j < from || j + kLanes > count) {
      for (int i = 0; i < kLanes; ++i) weight[i] = j + i >= from && j + i < count ? weight[i] : 0.0f;
    }
    store(scores + j, weight);
    added += weight;
  }
  const float keep = exponential(splat(maximum - top))[0];
  maximum = top;
  total = total * keep + sum(added);
  return keep;
}

// Adds line `i` of a segment's state to the running one.
inline void merge_line(float* result, float& maximum, float& total, const float* other, float other_maximum,
                       float other_total, std::int64_t width) {
  const float top = other_maximum > maximum ? other_maximum : maximum;
  const float keep = exponential(splat(maximum - top))[0], add = exponential(splat(other_maximum - top))[0];
  for (std::int64_t d = 0; d < width; ++d) result[d] = result[d] * keep + other[d] * add;
  total = total * keep + other_total * add;
  maximum = top;
}

// --- One task ---

struct AttentionScratch {
  AttentionScratch(const AttentionTask& t)
      : keys(t.scratch),
        values(keys + std::int64_t{kAttentionChunk} * t.head_dim),
        queries(values + kAttentionChunk * padded_head(t.head_dim)),
        scores(queries + std::int64_t{kAttentionRows} * t.group * t.head_dim),
        keep(scores + std::int64_t{kAttentionRows} * t.group * kAttentionChunk) {
    const std::int64_t lines = std::int64_t{kAttentionRows} * t.group, width = padded_head(t.head_dim);
    float* at = keep + lines;
    for (AttentionState* s : {&running, &segment}) {
      *s = {at, at + lines * width, at + lines * width + lines};
      at += lines * (width + 2);
    }
  }

  float* keys;     // (head_dim, chunk)
  float* values;   // (chunk, padded head)
  float* queries;  // (lines, head_dim), scaled
  float* scores;   // (lines, chunk)
  float* keep;     // (lines)
  AttentionState running, segment;
};

// Where a slot of the sequence lies.
inline std::int64_t slot_of(const AttentionTask& t, std::int32_t slot) {
  return std::int64_t{t.pages[slot / kAttentionChunk]} * kAttentionChunk + slot % kAttentionChunk;
}

// Lines [line, line + count) meet the keys and values [from, seen) of a chunk.
template <class Keys, class Values>
inline void attend_lines(const AttentionTask& t, const AttentionScratch& s, const Keys& keys, const Values& values,
                         std::int64_t line, std::int64_t count, int from, int seen) {
  const std::int64_t width = padded_head(t.head_dim);
  float* scores = s.scores + line * kAttentionChunk;
  constexpr int kTile = kWide * kLanes;
  small_product({s.queries + line * t.head_dim, t.head_dim, t.head_dim, scores, kAttentionChunk, nullptr}, keys, count,
                (seen + kTile - 1) / kTile * kTile);
  for (std::int64_t i = 0; i < count; ++i) {
    s.keep[i] =
        soften(scores + i * kAttentionChunk, from, seen, t.cap, s.segment.maxima[line + i], s.segment.totals[line + i]);
  }
  small_product({scores + from, kAttentionChunk, seen - from, s.segment.result + line * width, width, s.keep},
                values.behind(from), count, width);
}

// How many positions from `begin` on, of those before `end`, all rows find in the same slots: the prefix, and what
// their paths have in common with the order of slots, as the root of a tree.
inline int shared_positions(const AttentionTask& t, std::int32_t begin, std::int32_t end) {
  const auto is_shared = [&](std::int32_t position) {
    const std::int32_t depth = position - t.prefix;
    for (int r = 0; r < t.rows; ++r) {
      if (position < t.length[r] && t.path[std::int64_t{r} * t.path_stride + depth] != depth) return false;
    }
    return true;
  };
  std::int32_t at = t.path != nullptr && t.prefix < end ? t.prefix : end;
  while (at < end && is_shared(at)) ++at;
  return at > begin ? at - begin : 0;
}

template <CacheForm kForm>
inline void attend_chunk(const AttentionTask& t, const AttentionScratch& s, std::int32_t begin) {
  const std::int64_t width = padded_head(t.head_dim), lines = std::int64_t{t.rows} * t.group;
  std::int32_t shortest = t.length[0], longest = t.length[0], earliest = t.first[0], latest = t.first[0];
  for (int r = 1; r < t.rows; ++r) {
    shortest = t.length[r] < shortest ? t.length[r] : shortest;
    longest = t.length[r] > longest ? t.length[r] : longest;
    earliest = t.first[r] < earliest ? t.first[r] : earliest;
    latest = t.first[r] > latest ? t.first[r] : latest;
  }
  const std::int32_t end = begin + kAttentionChunk;
  if (earliest >= end) return;
  const std::int64_t base = slot_of(t, begin);
  const std::int64_t ahead = end < longest ? slot_of(t, end) - base : 0;
  const std::int32_t last = end < longest ? end : longest;
  const int shared = shared_positions(t, begin, last);
  const bool whole = shared == kAttentionChunk && shortest >= end && latest <= begin;
  const bool alone = t.rows == 1 && begin + shared == last;
  if (kForm == CacheForm::F16 && (whole || alone) && lines <= kDirectLines && width == t.head_dim) {
    const std::int64_t at = 2 * base * t.head_dim, next = 2 * ahead * t.head_dim;
    attend_lines(t, s, HalfKeys{t.keys.data + at, t.head_dim, next}, HalfValues{t.values.data + at, t.head_dim, next},
                 0, lines, earliest > begin ? earliest - begin : 0, shared);
    return;
  }
  const FloatRows keys{s.keys, kAttentionChunk}, values{s.values, width};
  load_keys<kForm>(s.keys, t.keys, base, shared, t.head_dim, ahead);
  for (int j = 0; j < shared; ++j) load_value<kForm>(s.values + j * width, t.values, base + j, t.head_dim, ahead);
  if (whole) {
    attend_lines(t, s, keys, values, 0, lines, 0, kAttentionChunk);
    return;
  }
  for (int r = 0; r < t.rows; ++r) {
    if (t.length[r] <= begin || t.first[r] >= end) continue;
    const int from = t.first[r] > begin ? t.first[r] - begin : 0;
    const int seen = t.length[r] < end ? t.length[r] - begin : kAttentionChunk;
    for (int j = shared; j < seen; ++j) {
      const std::int64_t slot = slot_of(t, t.prefix + t.path[std::int64_t{r} * t.path_stride + begin + j - t.prefix]);
      load_one_key<kForm>(s.keys + j, t.keys, slot, t.head_dim);
      load_value<kForm>(s.values + j * width, t.values, slot, t.head_dim);
    }
    attend_lines(t, s, keys, values, std::int64_t{r} * t.group, t.group, from, seen);
  }
}

template <CacheForm kForm>
inline void attend_segments(const AttentionTask& t) {
  const AttentionScratch s(t);
  const std::int64_t lines = std::int64_t{t.rows} * t.group, width = padded_head(t.head_dim);
  std::int32_t longest = 0;
  for (int r = 0; r < t.rows; ++r) longest = t.length[r] > longest ? t.length[r] : longest;
  if (width != t.head_dim) {  // columns that nobody loads
    __builtin_memset(s.values, 0, static_cast<std::size_t>(kAttentionChunk * width) * sizeof(float));
  }
  __builtin_memset(s.keys, 0, static_cast<std::size_t>(kAttentionChunk * t.head_dim) * sizeof(float));
  for (std::int64_t i = 0; i < lines; ++i) {
    const float* q = t.q + i / t.group * t.q_stride + i % t.group * t.head_dim;
    for (int d = 0; d < t.head_dim; ++d) s.queries[i * t.head_dim + d] = q[d] * t.scale;
  }
  clear(s.running, lines, width);
  for (std::int64_t i = 0; t.sinks != nullptr && t.partial == nullptr && i < lines; ++i) {
    s.running.maxima[i] = t.sinks[i % t.group];
    s.running.totals[i] = 1.0f;
  }
  for (std::int32_t segment = t.first_segment; segment < t.last_segment; ++segment) {
    clear(s.segment, lines, width);
    const std::int32_t first = segment * kAttentionSegment;
    for (std::int32_t begin = first; begin < first + kAttentionSegment && begin < longest; begin += kAttentionChunk) {
      attend_chunk<kForm>(t, s, begin);
    }
    for (std::int64_t i = 0; i < lines; ++i) {
      merge_line(s.running.result + i * width, s.running.maxima[i], s.running.totals[i], s.segment.result + i * width,
                 s.segment.maxima[i], s.segment.totals[i], t.head_dim);
    }
  }
  for (std::int64_t i = 0; i < lines; ++i) {
    const float* result = s.running.result + i * width;
    if (t.partial != nullptr) {
      float* to = t.partial + i * (t.head_dim + 2);
      __builtin_memcpy(to, result, static_cast<std::size_t>(t.head_dim) * sizeof(float));
      to[t.head_dim] = s.running.maxima[i];
      to[t.head_dim + 1] = s.running.totals[i];
    } else {
      float* to = t.out + i / t.group * t.out_stride + i % t.group * t.head_dim;
      for (int d = 0; d < t.head_dim; ++d) to[d] = result[d] / s.running.totals[i];
    }
  }
}

void attend(const AttentionTask& t) {
  switch (t.keys.form) {
    case CacheForm::F16:
      return attend_segments<CacheForm::F16>(t);
    case CacheForm::F32:
      return attend_segments<CacheForm::F32>(t);
    case CacheForm::Int8:
      return attend_segments<CacheForm::Int8>(t);
  }
}

// The partial states of a line, one per segment, `stride` floats apart, folded in order.
void merge_segments(float* out, const float* partial, std::int64_t stride, int segments, std::int64_t head_dim,
                    const float* sink) {
  float maximum = sink != nullptr ? *sink : -1e30f, total = sink != nullptr ? 1.0f : 0.0f;
  for (std::int64_t d = 0; d < head_dim; ++d) out[d] = 0.0f;
  for (int s = 0; s < segments; ++s, partial += stride) {
    merge_line(out, maximum, total, partial, partial[head_dim], partial[head_dim + 1], head_dim);
  }
  for (std::int64_t d = 0; d < head_dim; ++d) out[d] /= total;
}

}  // namespace
