// The inner loops of the CPU backend, once per instruction set.
//
// kernels.inl and the *.inl files it includes hold the code; kernels_generic.cpp, kernels_avx2.cpp and so on compile it
// with their own compiler flags. A set that adds to another one takes what is alike from there. Those files must not
// use inline functions of shared headers: the linker would keep one copy for all, perhaps the one that an older
// processor cannot run. Hence plain pointers and numbers here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/attention.h"
#include "cpu/panel.h"
#include "tensor/dtype.h"
#include "tensor/quant.h"

namespace frspec {
// As dequantize.h has it, whose other functions are not for kernels.
void dequantize_row(DType type, const std::byte* row, float* out, std::int64_t cols);
}  // namespace frspec

namespace frspec::cpu {

constexpr int kMaxPairs = 4;   // pairs of panels of a product: they share what x brings into cache
constexpr int kRowBlock = 64;  // rows of x that share one unpacking of a panel

// The forms in which the rows of x meet a weight. Each weight type has one (Kernels::form).
enum class Form : std::uint8_t { Int8, Bf16, F32 };  // as the first of backend.h's Arithmetic

// 256 elements of k of one row as whole numbers, |code| <= 127. Sums are exact.
struct ActivationCodes {
  std::int8_t codes[kGroup];
  std::int32_t offset16[kGroup / 16];  // -128 times the sum of 16 codes
  std::int32_t offset32[kGroup / 32];  // -128 times the sum of 32 codes
};

// Int8: each 32 elements have a scale of their own, x = scale (code + fine / 254). The second term is there for the few
// blocks that stand out (bit b of `spikes`); elsewhere `fine` holds whatever was there. Where x is not finite its scale
// is not, either, and so neither is any result.
struct alignas(64) ActivationGroup {
  ActivationCodes main;
  float scales[kGroup / 32];
  float sums[kGroup / 32];  // of the 32 values that the codes stand for
  ActivationCodes fine;
  std::uint32_t spikes;
};
constexpr float kFineStep = 1.0f / 254.0f;  // half a step of the codes is 127 of the second term's

// A block stands out if its largest magnitude is more than so many times what is usual in its row. Such blocks make
// most of the error: of SmolLM2's they are 2.7 in 100, and without their rounding the divergence more than halves.
constexpr float kSpike = 6.0f;

constexpr int kMatrixRows = 16;  // rows are there in multiples of it, whatever is in those behind the last

// Rows of x in one of the forms. Element k of row m lies, by form: Int8 at group m, k / 256 (ActivationGroup); Bf16 and
// F32 at m * row_stride + k * its size. Bf16 and F32 rows are zero from their end to
// that of the group.
struct Activations {
  const std::byte* data = nullptr;
  std::int64_t row_stride = 0;    // bytes from row to row
  std::int64_t group_stride = 0;  // bytes from one group of 256 elements to the next
  std::int64_t rows = 0;
};

// out[m][n] = sum_k x[m][k] w[n][k] (+ bias[n]), or added to what is there; n counts the rows of the panels. The sum
// runs over k in one order, whatever the numbers of rows and panels.
struct PanelProduct {
  DType type = DType::F32;  // as which it is packed: panel_type
  std::int64_t cols = 0;    // elements of k
  const std::byte* pairs[kMaxPairs] = {};
  const std::byte* next = nullptr;  // the pair that will be multiplied next, perhaps: only fetched into cache
  int panel_count = 0;              // an odd last one is alone in its pair
  int n_count = 0;                  // rows of the panels that exist
  Activations x;                    // in form(type)
  float* out = nullptr;
  std::int64_t out_stride = 0;
  const float* bias = nullptr;
  bool accumulate = false;
  std::byte* scratch = nullptr;  // kProductScratch bytes, line-aligned
};
constexpr std::size_t kProductScratch = 80 * 1024;

// out[i] = x . row rows[i] of a table in GGUF's own form, of any weight type.
struct RowProduct {
  DType type = DType::F32;
  const std::byte* table = nullptr;
  std::int64_t row_bytes = 0;
  const std::int32_t* rows = nullptr;
  std::int64_t count = 0;
  std::int64_t cols = 0;
  const float* x = nullptr;     // (cols)
  const float* sums = nullptr;  // (cols / 16) of each 16 elements of x
  float* out = nullptr;
};

constexpr int kDeltaColumns = 32;

// One row of the delta rule for kDeltaColumns values of a head. Matrices are (head_dim, kDeltaColumns).
struct DeltaStep {
  const float* from = nullptr;
  float* to = nullptr;  // may be `from`; null: nobody goes on from here
  const float* query = nullptr;
  const float* key = nullptr;
  const float* value = nullptr;
  float* delta = nullptr;
  float* out = nullptr;
  std::int64_t head_dim = 0;
  float decay = 0.0f;
  float strength = 0.0f;
  float scale = 0.0f;
};

struct Kernels {
  const char* name;
  Form (*form)(DType type);
  // One row of `cols` floats to a form; `out` is where the row begins.
  void (*to_int8)(std::byte* out, std::int64_t group_stride, const float* x, std::int64_t cols,
                  float* scratch);  // a float per 32 elements
  void (*to_bf16)(std::uint16_t* out, const float* x, std::int64_t cols);
  void (*multiply)(const PanelProduct& product);
  void (*attend)(const AttentionTask& task);
  // The partial states of a line, one per segment and `stride` floats apart, to its result. `sink`: its head's, or
  // null.
  void (*merge_segments)(float* out, const float* partial, std::int64_t stride, int segments, std::int64_t head_dim,
                         const float* sink);
  void (*rms_norm)(float* out, const float* x, const float* weight, std::int64_t n, float epsilon);
  // Both halves of a gated feed-forward, by backend.h's Activation.
  void (*activate[4])(float* out, const float* gate, const float* up, std::int64_t n);
  void (*add_scaled)(float* x, const float* y, float scale, std::int64_t n);  // x += scale y
  void (*to_logits)(float* x, std::int64_t n, float scale, float cap);        // tensor.h's LogitRule
  void (*to_half)(std::uint16_t* out, const float* x, std::int64_t n);
  float (*maximum)(const float* x, std::int64_t n);                  // NaN counts as -infinity
  float (*sum_exp)(const float* x, std::int64_t n, float subtract);  // sum of exp(x - subtract)
  // The noise of n tokens at a position: of `first` (a multiple of 4) and those that follow it, or of a list of ids.
  void (*gumbel_run)(float* out, std::uint32_t first, std::int64_t n, std::uint64_t position, std::uint64_t seed);
  void (*gumbel_list)(float* out, const std::int32_t* ids, std::int64_t n, std::uint64_t position, std::uint64_t seed);
  void (*add_noise)(float* out, const float* x, float temperature, const float* noise,
                    std::int64_t n);  // x / T + noise
  void (*dot_rows)(const RowProduct& product);
  void (*sums_of_16)(float* sums, const float* x, std::int64_t n);  // of each whole 16 elements
  // Finds the columns of x that are at least `threshold`, ascending; keeps the first `room`, counts all.
  std::int64_t (*columns_from)(std::int32_t* columns, std::int64_t room, const float* x, std::int64_t n,
                               float threshold);
  // Of run_delta: silu of the sum of taps, over n channels; x / sqrt(sum x^2 + epsilon); decays and strengths of n
  // heads; the rule, and the part of it that makes the next matrix; a normed and gated head.
  void (*convolve)(float* out, const float* const* rows, const float* weights, std::int64_t stride, int taps,
                   std::int64_t n);
  void (*l2_norm)(float* out, const float* x, std::int64_t n, float epsilon);
  void (*delta_gates)(float* decay, float* strength, const float* decay_logits, const float* strength_logits,
                      const float* rate, const float* bias, std::int64_t n);
  void (*delta_step)(const DeltaStep& step);
  void (*delta_keep)(float* matrix, const float* key, const float* delta, float decay, std::int64_t head_dim);
  void (*gated_norm)(float* out, const float* x, const float* weight, const float* gate, std::int64_t n, float epsilon);
  // For the ceilings: reads whole lines and returns a digest of them; does `rounds` rounds of nothing but multiply-adds
  // in the arithmetic of a form and returns how many multiply-adds those were.
  std::int32_t (*read)(const std::byte* memory, std::int64_t bytes);
  double (*burn)(Form form, std::int64_t rounds);
};

const Kernels& generic_kernels() noexcept;
#ifdef FRSPEC_X86
const Kernels& avx2_kernels() noexcept;
const Kernels& avx2vnni_kernels() noexcept;
const Kernels& avx512_kernels() noexcept;
const Kernels& avx512bf16_kernels() noexcept;
const Kernels& amx_kernels() noexcept;
const Kernels& amx_emulated_kernels() noexcept;
#endif
#ifdef FRSPEC_ARM64
const Kernels& neon_kernels() noexcept;
#endif

// The best kernels this machine can run, or those that the environment variable FRSPEC_CPU names; an unknown name, or
// one the machine lacks, is an error.
const Kernels& choose_kernels();

}  // namespace frspec::cpu
