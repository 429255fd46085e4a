// The inner loops of the CPU backend, once per instruction set.
//
// kernels.inl holds the code; kernels_generic.cpp, kernels_avx2.cpp and kernels_avx512.cpp compile it with their own
// compiler flags. Those files must not use inline functions of shared headers: the linker would keep one copy for all,
// perhaps the one that an older processor cannot run. Hence plain pointers and numbers here.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace frspec::cpu {

constexpr int kPanel = 16;           // output rows that are dequantized together
constexpr int kAttentionChunk = 64;  // keys per step of the running softmax, at absolute logical positions

// out[m][n] = sum_k x[m][k] w[n][k] (+ bias[n]), or added to what is there. The sum runs over k in one order,
// whatever m_count and n_count are.
struct DotBlock {
  const float* x = nullptr;  // (m_count, k)
  std::int64_t x_stride = 0;
  std::int64_t m_count = 0;
  const float* w = nullptr;  // (n_count, k)
  std::int64_t w_stride = 0;
  std::int64_t n_count = 0;
  std::int64_t k = 0;
  float* out = nullptr;  // (m_count, n_count)
  std::int64_t out_stride = 0;
  const float* bias = nullptr;
  bool accumulate = false;
};

// The query heads of one row that share a K/V head, attending over the row's logical sequence.
struct AttendGroup {
  const float* q = nullptr;  // (group, head_dim)
  float* out = nullptr;      // (group, head_dim)
  int group = 0;
  int head_dim = 0;
  const std::uint16_t* keys = nullptr;  // of this K/V head: f16, slot s at keys + s * slot_stride
  const std::uint16_t* values = nullptr;
  std::int64_t slot_stride = 0;
  std::int32_t prefix = 0;             // logical positions below it are slots of the same number,
  const std::int32_t* path = nullptr;  // the others slots prefix + path[p - prefix]; null: slot p throughout
  std::int32_t length = 0;             // logical positions
  float scale = 0.0f;
  float* scratch = nullptr;  // attend_scratch(head_dim, group) floats
};

constexpr std::int64_t attend_scratch(std::int64_t head_dim, std::int64_t group) {
  return kAttentionChunk * (head_dim + group) + 2 * group;
}

struct Kernels {
  const char* name;
  void (*dequantize)(DType type, const void* row, float* out, std::int64_t cols);
  bool (*all_finite)(DType type, const void* row, std::int64_t cols);  // false: a value or a scale is NaN or infinite
  void (*dot_block)(const DotBlock& block);
  void (*attend_group)(const AttendGroup& group);
  void (*rms_norm)(float* out, const float* x, const float* weight, std::int64_t n, float epsilon);
  void (*swiglu)(float* gate, const float* up, std::int64_t n);
  void (*to_half)(std::uint16_t* out, const float* x, std::int64_t n);
  float (*maximum)(const float* x, std::int64_t n);                  // NaN counts as -infinity
  float (*sum_exp)(const float* x, std::int64_t n, float subtract);  // sum of exp(x - subtract)
};

extern const Kernels kGenericKernels;
#ifdef FRSPEC_X86
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

// The best kernels this machine can run, or those that the environment variable FRSPEC_CPU names; an unknown name, or
// one the machine lacks, is an error.
const Kernels& choose_kernels();

}  // namespace frspec::cpu
