// Element types, numbered as in GGUF files, with the size of their blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace frspec {

// clang-format off
enum class DType : std::uint32_t {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9,
  Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15,
  IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22,
  IQ4_XS = 23, I8 = 24, I16 = 25, I32 = 26, I64 = 27, F64 = 28, IQ1_M = 29, BF16 = 30,
  TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39, NVFP4 = 40, Q1_0 = 41, Q2_0 = 42,
  Coded = 1000,  // of no file: what codebook types are brought to (coded.h)
};
// clang-format on

struct DTypeInfo {
  DType type;
  std::string_view name;    // as llama.cpp prints it: "Q8_0"
  std::size_t block_size;   // elements per block, along a row
  std::size_t block_bytes;  // bytes per block
};

// The entry for a type number of a GGUF file, or null where files have no such type.
const DTypeInfo* find_dtype(std::uint32_t number);

// The entry of a known type.
const DTypeInfo& dtype_info(DType type);

inline std::string_view dtype_name(DType type) { return dtype_info(type).name; }

// Bytes of one row of `cols` elements; cols must be a multiple of the block size.
inline std::size_t row_bytes(DType type, std::size_t cols) {
  const DTypeInfo& info = dtype_info(type);
  return cols / info.block_size * info.block_bytes;
}

}  // namespace frspec
