// Rows of any weight format as f32, element by element: the plain reading of quant.h, for single rows and for tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"
#include "tensor/tensor.h"

namespace frspec {

// Whether a weight may have the type: it is one of weight_types.h. Their names: "F32, F16, ...".
bool is_weight_type(DType type);
std::string_view weight_type_names();

// `cols` elements (a multiple of the type's block) of the row at `row`. Throws for what is no type of weights, unless
// it is their coded form.
void dequantize_row(DType type, const std::byte* row, float* out, std::int64_t cols);

// False where a value, or the scale or minimum of a block, is NaN or infinite.
bool is_finite_row(DType type, const std::byte* row, std::int64_t cols);

// Throw InvalidInput that names file and tensor: unless the source is of a weight type; where row `row` is not finite.
void check_weight_type(const WeightSource& source);
void check_finite_row(const WeightSource& source, std::int64_t row);

float half_to_float(std::uint16_t bits);

}  // namespace frspec
