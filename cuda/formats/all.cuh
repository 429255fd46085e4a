// Every format of packed weights, and a choice of one at run time.
#pragma once

#include <type_traits>

#include "base/error.h"
#include "cuda/formats/blocks.cuh"
#include "cuda/formats/halves.cuh"
#include "cuda/formats/k_quants.cuh"
#include "cuda/formats/q6_k.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// F32 is never packed.
struct FormatF32 {
  static constexpr DType kType = DType::F32;
  __device__ static float value(const std::byte* row, std::int64_t col) { return read_as<float>(row + 4 * col); }
};

template <class Format>
struct Chosen {
  using type = Format;
};

// Calls use(Chosen<Format>) with the format of a type that is packed.
template <class Use>
decltype(auto) with_packed_format(DType type, Use&& use) {
  switch (type) {
    case DType::F16:
      return use(Chosen<FormatF16>());
    case DType::BF16:
      return use(Chosen<FormatBF16>());
    case DType::Q8_0:
      return use(Chosen<FormatQ8_0>());
    case DType::Q4_0:
      return use(Chosen<FormatQ4_0>());
    case DType::Q4_1:
      return use(Chosen<FormatQ4_1>());
    case DType::Q5_0:
      return use(Chosen<FormatQ5_0>());
    case DType::Q5_1:
      return use(Chosen<FormatQ5_1>());
    case DType::Q4_K:
      return use(Chosen<FormatQ4_K>());
    case DType::Q5_K:
      return use(Chosen<FormatQ5_K>());
    case DType::Q6_K:
      return use(Chosen<FormatQ6_K>());
    default:
      fail("cuda: found a weight of type ", dtype_name(type), ", which cannot be packed");
  }
}
// The same for any type of a weight.
template <class Use>
decltype(auto) with_format(DType type, Use&& use) {
  if (type == DType::F32) return use(Chosen<FormatF32>());
  return with_packed_format(type, use);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
