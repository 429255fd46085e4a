// Every type that a weight may have, as lists over which switches are made: FRSPEC_WEIGHT_TYPES(CASE) with
//   #define CASE(name) case DType::name: return use<DType::name>();
// leaves none out, and what a type lacks (its block, its panel, its reading) does not compile. Quantized types have
// blocks of their name (quant.h): BlockQ8_0.
#pragma once

#define FRSPEC_FLOAT_TYPES(X) X(F32) X(F16) X(BF16)

// Those whose own bits a kernel reads.
#define FRSPEC_BLOCK_TYPES(X) \
  X(Q8_0)                     \
  X(Q4_0)                     \
  X(Q4_1)                     \
  X(Q5_0)                     \
  X(Q5_1)                     \
  X(Q2_K)                     \
  X(Q3_K)                     \
  X(Q4_K)                     \
  X(Q5_K)                     \
  X(Q6_K)                     \
  X(IQ4_NL)                   \
  X(IQ4_XS)                   \
  X(MXFP4)

// Those that are brought to another form at load, exactly (coded.h). To DType::Coded: codebooks and digits of three.
#define FRSPEC_CODEBOOK_TYPES(X) \
  X(IQ3_S)                       \
  X(IQ3_XXS)                     \
  X(IQ2_S)                       \
  X(IQ2_XS)                      \
  X(IQ2_XXS)                     \
  X(IQ1_M)                       \
  X(IQ1_S)                       \
  X(TQ2_0)                       \
  X(TQ1_0)

// To Q4_0: codes of one bit or two, a scale for several of its blocks.
#define FRSPEC_NARROW_TYPES(X) \
  X(Q2_0)                      \
  X(Q1_0)

#define FRSPEC_CODED_TYPES(X) FRSPEC_CODEBOOK_TYPES(X) FRSPEC_NARROW_TYPES(X)
#define FRSPEC_QUANTIZED_TYPES(X) FRSPEC_BLOCK_TYPES(X) FRSPEC_CODED_TYPES(X)
#define FRSPEC_WEIGHT_TYPES(X) FRSPEC_FLOAT_TYPES(X) FRSPEC_QUANTIZED_TYPES(X)
