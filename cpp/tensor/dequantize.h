// Rows of any weight format as f32, element by element: the plain reading of quant.h, for single rows and for tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace frspec {

// Whether the functions below know the type: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K.
bool is_weight_type(DType type);

// `cols` elements (a multiple of the type's block) of the row at `row`.
void dequantize_row(DType type, const std::byte* row, float* out, std::int64_t cols);

// False where a value, or the scale or minimum of a block, is NaN or infinite.
bool is_finite_row(DType type, const std::byte* row, std::int64_t cols);

float half_to_float(std::uint16_t bits);

}  // namespace frspec
