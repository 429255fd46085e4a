// Matrix products with Q5_0 and Q5_1 weights (matmul.cuh).
#include "cuda/formats/blocks.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

MatmulKernels matmul_q5_0() { return make_matmul_kernels<FormatQ5_0>(); }
MatmulKernels matmul_q5_1() { return make_matmul_kernels<FormatQ5_1>(); }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
