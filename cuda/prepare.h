// In which form a weight wants the rows that it is multiplied with.
#pragma once

#include "cuda/matmul.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

enum class Form : std::uint8_t { F16, Bf16, F32 };
inline constexpr int kForms = 3;

constexpr Form form_of(DType type) {
  return type == DType::F32 ? Form::F32 : type == DType::BF16 ? Form::Bf16 : Form::F16;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
