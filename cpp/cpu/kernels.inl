// The kernels, written once. The including file defines, before the include:
//   FRSPEC_KERNELS   name of the table to define      FRSPEC_ISA_NAME   its printed name
//   kLanes           floats per vector register       Floats, multiply_add(a, b, c), load_half, store_half
//   kTileRows        rows of x per tile of 4 columns: as many sums as fit the registers
// Everything else is static, so each instruction set has its own copy (see kernels.h).

namespace {

using Ints = std::int32_t __attribute__((vector_size(4 * kLanes)));

inline Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Floats v) { __builtin_memcpy(p, &v, sizeof v); }

// The first n < kLanes elements, then zeros.
inline Floats load_part(const float* p, std::int64_t n) {
  Floats v = {};
  __builtin_memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(float));
  return v;
}

inline void store_part(float* p, Floats v, std::int64_t n) {
  __builtin_memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(float));
}

inline Floats splat(float x) { return x - Floats{}; }

// Adds halves to each other until one element is left. (A template, so that only the branch that fits is compiled.)
template <class V>
inline float sum(V v) {
  if constexpr (sizeof(V) == 64) {
    return sum(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  } else if constexpr (sizeof(V) == 32) {
    return sum(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
  } else {
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1);
    return v[0] + v[1];
  }
}

// e^x (Cephes expf), about 1 ulp; arguments below -87 give about 1e-38 instead of a denormal or zero.
inline Floats exponential(Floats x) {
  x = x > splat(88.0f) ? splat(88.0f) : x;
  x = x > splat(-87.0f) ? x : splat(-87.0f);  // NaN goes here, too
  const Floats magic = splat(12582912.0f);    // 1.5 * 2^23: adding it rounds to an integer
  const Floats n = (x * 1.44269504088896341f + magic) - magic;
  Floats r = multiply_add(n, splat(-0.693359375f), x);
  r = multiply_add(n, splat(2.12194440e-4f), r);
  Floats p = splat(1.9875691500e-4f);
  p = multiply_add(p, r, splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r + 1.0f);
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  return p * power;
}

// --- Weight formats ---

inline float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1Fu;
  const std::uint32_t mantissa = h & 0x3FFu;
  std::uint32_t bits;
  if (exponent == 0) {  // zero or denormal: mantissa * 2^-24
    const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    __builtin_memcpy(&bits, &value, sizeof bits);
    bits |= sign;
  } else if (exponent == 31) {
    bits = sign | 0x7F800000u | (mantissa << 13);
  } else {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  }
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

void dequantize_f16(const void* row, float* out, std::int64_t cols) {
  const auto* x = static_cast<const char*>(row);
  std::int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) store(out + i, load_half(x + 2 * i));
  for (; i < cols; ++i) {
    std::uint16_t h;
    __builtin_memcpy(&h, x + 2 * i, 2);
    out[i] = half_to_float(h);
  }
}

void dequantize_bf16(const void* row, float* out, std::int64_t cols) {
  const auto* x = static_cast<const char*>(row);
  for (std::int64_t i = 0; i < cols; ++i) {
    std::uint16_t h;
    __builtin_memcpy(&h, x + 2 * i, 2);
    const std::uint32_t bits = static_cast<std::uint32_t>(h) << 16;
    __builtin_memcpy(out + i, &bits, 4);
  }
}

void dequantize_q8_0(const void* row, float* out, std::int64_t cols) {
  const auto* blocks = static_cast<const BlockQ8_0*>(row);
  for (std::int64_t b = 0; b < cols / kQuantBlock; ++b) {
    const float scale = half_to_float(blocks[b].scale);
    for (int i = 0; i < kQuantBlock; ++i) out[b * kQuantBlock + i] = scale * static_cast<float>(blocks[b].quants[i]);
  }
}

void dequantize_q4_0(const void* row, float* out, std::int64_t cols) {
  const auto* blocks = static_cast<const BlockQ4_0*>(row);
  for (std::int64_t b = 0; b < cols / kQuantBlock; ++b) {
    const float scale = half_to_float(blocks[b].scale);
    float* y = out + b * kQuantBlock;
    for (int i = 0; i < kQuantBlock / 2; ++i) {
      const std::uint8_t pair = blocks[b].quants[i];
      y[i] = scale * static_cast<float>((pair & 0xF) - 8);
      y[i + kQuantBlock / 2] = scale * static_cast<float>((pair >> 4) - 8);
    }
  }
}

void dequantize(DType type, const void* row, float* out, std::int64_t cols) {
  switch (type) {
    case DType::F32:
      __builtin_memcpy(out, row, static_cast<std::size_t>(cols) * sizeof(float));
      break;
    case DType::F16:
      dequantize_f16(row, out, cols);
      break;
    case DType::BF16:
      dequantize_bf16(row, out, cols);
      break;
    case DType::Q8_0:
      dequantize_q8_0(row, out, cols);
      break;
    case DType::Q4_0:
      dequantize_q4_0(row, out, cols);
      break;
    default:
      break;  // the backend admits no other type
  }
}

// Whether none of `count` floating-point bit patterns, `step` bytes apart, has its exponent bits all set.
template <class Bits>
bool finite_bits(const void* first, std::int64_t count, std::int64_t step, Bits exponent_mask) {
  const auto* p = static_cast<const char*>(first);
  unsigned bad = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    Bits bits;
    __builtin_memcpy(&bits, p + i * step, sizeof bits);
    bad |= static_cast<unsigned>((bits & exponent_mask) == exponent_mask);
  }
  return bad == 0;
}

bool all_finite(DType type, const void* row, std::int64_t cols) {
  switch (type) {
    case DType::F32:
      return finite_bits<std::uint32_t>(row, cols, 4, 0x7F800000u);
    case DType::F16:
      return finite_bits<std::uint16_t>(row, cols, 2, 0x7C00u);
    case DType::BF16:
      return finite_bits<std::uint16_t>(row, cols, 2, 0x7F80u);
    case DType::Q8_0:
      return finite_bits<std::uint16_t>(row, cols / kQuantBlock, sizeof(BlockQ8_0), 0x7C00u);
    case DType::Q4_0:
      return finite_bits<std::uint16_t>(row, cols / kQuantBlock, sizeof(BlockQ4_0), 0x7C00u);
    default:
      return false;
  }
}

// --- Matrix product ---

// M x N sums at once, each in its own register over k: the order per sum is the same for every M and N.
template <int M, int N>
inline void dot_tile(const DotBlock& b, std::int64_t m, std::int64_t n) {
  const float* x = b.x + m * b.x_stride;
  const float* w = b.w + n * b.w_stride;
  Floats sums[M][N] = {};
  std::int64_t k = 0;
  for (; k + kLanes <= b.k; k += kLanes) {
    Floats row[N];
    for (int j = 0; j < N; ++j) row[j] = load(w + j * b.w_stride + k);
    for (int i = 0; i < M; ++i) {
      const Floats value = load(x + i * b.x_stride + k);
      for (int j = 0; j < N; ++j) sums[i][j] = multiply_add(value, row[j], sums[i][j]);
    }
  }
  if (k < b.k) {
    for (int i = 0; i < M; ++i) {
      const Floats value = load_part(x + i * b.x_stride + k, b.k - k);
      for (int j = 0; j < N; ++j) {
        sums[i][j] = multiply_add(value, load_part(w + j * b.w_stride + k, b.k - k), sums[i][j]);
      }
    }
  }
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) {
      float total = sum(sums[i][j]);
      if (b.bias != nullptr) total += b.bias[n + j];
      float& out = b.out[(m + i) * b.out_stride + n + j];
      out = b.accumulate ? out + total : total;
    }
  }
}

// The last `rows` < kTileRows rows of a block, as one tile.
template <int N, int M = kTileRows - 1>
inline void dot_last_rows(const DotBlock& b, std::int64_t m, std::int64_t n, std::int64_t rows) {
  if constexpr (M > 0) {
    rows == M ? dot_tile<M, N>(b, m, n) : dot_last_rows<N, M - 1>(b, m, n, rows);
  }
}

template <int N>
inline void dot_columns(const DotBlock& b, std::int64_t n) {
  std::int64_t m = 0;
  for (; m + kTileRows <= b.m_count; m += kTileRows) dot_tile<kTileRows, N>(b, m, n);
  if (m < b.m_count) dot_last_rows<N>(b, m, n, b.m_count - m);
}

void dot_block(const DotBlock& b) {
  std::int64_t n = 0;
  for (; n + 4 <= b.n_count; n += 4) dot_columns<4>(b, n);
  for (; n < b.n_count; ++n) dot_columns<1>(b, n);
}

// --- Attention ---

inline float dot(const float* a, const float* b, std::int64_t n) {
  Floats total = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total = multiply_add(load(a + i), load(b + i), total);
  if (i < n) total = multiply_add(load_part(a + i, n - i), load_part(b + i, n - i), total);
  return sum(total);
}

// y = y * keep + x * add
inline void blend(float* y, float keep, const float* x, float add, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, multiply_add(splat(add), load(x + i), load(y + i) * keep));
  if (i < n) {
    store_part(y + i, multiply_add(splat(add), load_part(x + i, n - i), load_part(y + i, n - i) * keep), n - i);
  }
}

inline std::int64_t slot_of(const AttendGroup& a, std::int32_t position) {
  return a.path == nullptr || position < a.prefix ? position : a.prefix + a.path[position - a.prefix];
}

inline void gather_half(const AttendGroup& a, const std::uint16_t* from, std::int32_t begin, int count, float* out) {
  for (int j = 0; j < count; ++j) {
    dequantize_f16(from + slot_of(a, begin + j) * a.slot_stride, out + j * a.head_dim, a.head_dim);
  }
}

// Turns the scores of one chunk into weights exp(score - running maximum) and updates maximum and total; returns the
// factor by which everything summed so far must be scaled.
inline float soften(float* scores, int count, float& maximum, float& total) {
  float top = maximum;
  for (int j = 0; j < count; ++j) top = scores[j] > top ? scores[j] : top;
  for (int j = count; j < kAttentionChunk; ++j) scores[j] = 0.0f;
  Floats added = {};
  for (int j = 0; j < kAttentionChunk; j += kLanes) {
    Floats weight = exponential(load(scores + j) - top);
    if (j + kLanes > count) {
      for (int i = 0; i < kLanes; ++i) weight[i] = j + i < count ? weight[i] : 0.0f;
    }
    store(scores + j, weight);
    added += weight;
  }
  const float keep = exponential(splat(maximum - top))[0];
  maximum = top;
  total = total * keep + sum(added);
  return keep;
}

void attend_group(const AttendGroup& a) {
  const std::int64_t d = a.head_dim;
  float* rows = a.scratch;  // keys, then values of the chunk
  float* scores = rows + kAttentionChunk * d;
  float* maxima = scores + kAttentionChunk * a.group;
  float* totals = maxima + a.group;
  for (int g = 0; g < a.group; ++g) {
    maxima[g] = -1e30f;
    totals[g] = 0.0f;
    for (std::int64_t i = 0; i < d; ++i) a.out[g * d + i] = 0.0f;
  }
  for (std::int32_t begin = 0; begin < a.length; begin += kAttentionChunk) {
    const int count = a.length - begin < kAttentionChunk ? a.length - begin : kAttentionChunk;
    gather_half(a, a.keys, begin, count, rows);
    for (int g = 0; g < a.group; ++g) {
      float* line = scores + g * kAttentionChunk;
      for (int j = 0; j < count; ++j) line[j] = a.scale * dot(a.q + g * d, rows + j * d, d);
    }
    gather_half(a, a.values, begin, count, rows);
    for (int g = 0; g < a.group; ++g) {
      float* line = scores + g * kAttentionChunk;
      const float keep = soften(line, count, maxima[g], totals[g]);
      for (int j = 0; j < count; ++j) blend(a.out + g * d, j == 0 ? keep : 1.0f, rows + j * d, line[j], d);
    }
  }
  for (int g = 0; g < a.group; ++g) {
    for (std::int64_t i = 0; i < d; ++i) a.out[g * d + i] /= totals[g];
  }
}

// --- Element-wise and row-wise ---

void rms_norm(float* out, const float* x, const float* weight, std::int64_t n, float epsilon) {
  const float mean = dot(x, x, n) / static_cast<float>(n);
  const float scale = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

inline Floats swiglu_of(Floats gate, Floats up) { return gate / (exponential(-gate) + 1.0f) * up; }

void swiglu(float* gate, const float* up, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(gate + i, swiglu_of(load(gate + i), load(up + i)));
  if (i < n) store_part(gate + i, swiglu_of(load_part(gate + i, n - i), load_part(up + i, n - i)), n - i);
}

void to_half(std::uint16_t* out, const float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_half(out + i, load(x + i));
  if (i < n) {
    std::uint16_t part[kLanes];
    store_half(part, load_part(x + i, n - i));
    __builtin_memcpy(out + i, part, static_cast<std::size_t>(n - i) * sizeof(std::uint16_t));
  }
}

float maximum(const float* x, std::int64_t n) {
  Floats best = splat(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats value = load(x + i);
    best = value > best ? value : best;
  }
  float top = -__builtin_inff();
  for (int lane = 0; lane < kLanes; ++lane) top = best[lane] > top ? best[lane] : top;
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

float sum_exp(const float* x, std::int64_t n, float subtract) {
  // Vocabularies are long: the sums of short stretches are added in double precision.
  constexpr std::int64_t kStretch = 1024;
  double total = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kStretch) {
    const std::int64_t end = begin + kStretch < n ? begin + kStretch : n;
    Floats stretch = {};
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) stretch += exponential(load(x + i) - subtract);
    if (i < end) {
      const Floats last = exponential(load_part(x + i, end - i) - subtract);
      for (int lane = 0; lane < end - i; ++lane) total += static_cast<double>(last[lane]);
    }
    total += static_cast<double>(sum(stretch));
  }
  return static_cast<float>(total);
}

}  // namespace

const Kernels FRSPEC_KERNELS = {FRSPEC_ISA_NAME, dequantize, all_finite, dot_block, attend_group,
                                rms_norm,        swiglu,     to_half,    maximum,   sum_exp};
