// Matrix products with Q4_0 and Q4_1 weights (matmul.cuh).
#include "cuda/formats/blocks.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

MatmulKernels matmul_q4_0() { return make_matmul_kernels<FormatQ4_0>(); }
MatmulKernels matmul_q4_1() { return make_matmul_kernels<FormatQ4_1>(); }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
