// The table of element types: names and block layouts as ggml defines them.
#include "tensor/dtype.h"

#include <array>

#include "base/error.h"
#include "tensor/coded.h"
#include "tensor/quant.h"
#include "tensor/weight_types.h"

namespace frspec {
namespace {

constexpr std::array kTypes = {
    DTypeInfo{DType::F32, "F32", 1, 4},
    DTypeInfo{DType::F16, "F16", 1, 2},
    DTypeInfo{DType::Q4_0, "Q4_0", 32, 18},
    DTypeInfo{DType::Q4_1, "Q4_1", 32, 20},
    DTypeInfo{DType::Q5_0, "Q5_0", 32, 22},
    DTypeInfo{DType::Q5_1, "Q5_1", 32, 24},
    DTypeInfo{DType::Q8_0, "Q8_0", 32, 34},
    DTypeInfo{DType::Q8_1, "Q8_1", 32, 36},  // two halves and 32 bytes; some tables say 40
    DTypeInfo{DType::Q2_K, "Q2_K", 256, 84},
    DTypeInfo{DType::Q3_K, "Q3_K", 256, 110},
    DTypeInfo{DType::Q4_K, "Q4_K", 256, 144},
    DTypeInfo{DType::Q5_K, "Q5_K", 256, 176},
    DTypeInfo{DType::Q6_K, "Q6_K", 256, 210},
    DTypeInfo{DType::Q8_K, "Q8_K", 256, 292},
    DTypeInfo{DType::IQ2_XXS, "IQ2_XXS", 256, 66},
    DTypeInfo{DType::IQ2_XS, "IQ2_XS", 256, 74},
    DTypeInfo{DType::IQ3_XXS, "IQ3_XXS", 256, 98},
    DTypeInfo{DType::IQ1_S, "IQ1_S", 256, 50},
    DTypeInfo{DType::IQ4_NL, "IQ4_NL", 32, 18},
    DTypeInfo{DType::IQ3_S, "IQ3_S", 256, 110},
    DTypeInfo{DType::IQ2_S, "IQ2_S", 256, 82},
    DTypeInfo{DType::IQ4_XS, "IQ4_XS", 256, 136},
    DTypeInfo{DType::I8, "I8", 1, 1},
    DTypeInfo{DType::I16, "I16", 1, 2},
    DTypeInfo{DType::I32, "I32", 1, 4},
    DTypeInfo{DType::I64, "I64", 1, 8},
    DTypeInfo{DType::F64, "F64", 1, 8},
    DTypeInfo{DType::IQ1_M, "IQ1_M", 256, 56},
    DTypeInfo{DType::BF16, "BF16", 1, 2},
    DTypeInfo{DType::TQ1_0, "TQ1_0", 256, 54},
    DTypeInfo{DType::TQ2_0, "TQ2_0", 256, 66},
    DTypeInfo{DType::MXFP4, "MXFP4", 32, 17},
    DTypeInfo{DType::NVFP4, "NVFP4", 64, 36},
    DTypeInfo{DType::Q1_0, "Q1_0", 128, 18},
    DTypeInfo{DType::Q2_0, "Q2_0", 64, 18},
};
constexpr DTypeInfo kCoded{DType::Coded, "Coded", kSuperBlock, sizeof(BlockCoded)};

constexpr std::size_t kTypeNumbers = 43;  // one past the largest type number

// Type number -> its entry in kTypes, null in the gaps (numbers of types that were removed).
constexpr auto kByNumber = [] {
  std::array<const DTypeInfo*, kTypeNumbers> table{};
  for (const DTypeInfo& info : kTypes) table[static_cast<std::size_t>(info.type)] = &info;
  return table;
}();

// The blocks of quant.h are those of the table.
#define CHECK(name)                                                                          \
  static_assert(Block##name::kElements == kByNumber[std::size_t(DType::name)]->block_size && \
                sizeof(Block##name) == kByNumber[std::size_t(DType::name)]->block_bytes);
FRSPEC_QUANTIZED_TYPES(CHECK)
#undef CHECK

}  // namespace

const DTypeInfo* find_dtype(std::uint32_t number) { return number < kTypeNumbers ? kByNumber[number] : nullptr; }

const DTypeInfo& dtype_info(DType type) {
  if (type == DType::Coded) return kCoded;
  const DTypeInfo* info = find_dtype(static_cast<std::uint32_t>(type));
  if (info == nullptr) fail("tensor type number ", static_cast<std::uint32_t>(type), " is unknown");
  return *info;
}

}  // namespace frspec
