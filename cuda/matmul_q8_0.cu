// Matrix products with Q8_0 weights (matmul.cuh).
#include "cuda/formats/blocks.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

MatmulKernels matmul_q8_0() { return make_matmul_kernels<FormatQ8_0>(); }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
