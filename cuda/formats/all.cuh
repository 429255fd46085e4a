// Every format of packed weights, and a choice of one at run time.
#pragma once

#include <type_traits>

#include "base/error.h"
#include "cuda/formats/blocks.cuh"
#include "cuda/formats/coded.cuh"
#include "cuda/formats/halves.cuh"
#include "cuda/formats/k_quants.cuh"
#include "cuda/formats/q2_k.cuh"
#include "cuda/formats/q6_k.cuh"
#include "tensor/weight_types.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// F32 is never packed.
struct FormatF32 {
  static constexpr DType kType = DType::F32;
  __device__ static float value(const std::byte* row, std::int64_t col) { return read_as<float>(row + 4 * col); }
};

using FormatQ3_K = FormatCoded;
using FormatIQ4_XS = FormatCoded;

// The type as which the device has a weight: its own, or that of its coded form.
constexpr DType device_type(DType type) {
  switch (type) {
#define FRSPEC_CASE(name) \
  case DType::name:       \
    return Format##name::kType;
    FRSPEC_FLOAT_TYPES(FRSPEC_CASE)
    FRSPEC_BLOCK_TYPES(FRSPEC_CASE)
#undef FRSPEC_CASE
    default:
      return coded_type(type);
  }
}

template <class Format>
struct Chosen {
  using type = Format;
};

// Calls use(Chosen<Format>) with the format of a device_type that is packed.
template <class Use>
decltype(auto) with_packed_format(DType type, Use&& use) {
  switch (type) {
    case DType::F16:
      return use(Chosen<FormatF16>());
    case DType::BF16:
      return use(Chosen<FormatBF16>());
    case DType::Coded:
      return use(Chosen<FormatCoded>());
#define FRSPEC_CASE(name) \
  case DType::name:       \
    return use(Chosen<Format##name>());
      FRSPEC_BLOCK_TYPES(FRSPEC_CASE)
#undef FRSPEC_CASE
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
