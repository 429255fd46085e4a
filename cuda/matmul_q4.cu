// Matrix products with Q4_0 and Q4_1 weights (matmul.cuh).
#include "cuda/formats/blocks.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatQ4_0>();
template MatmulKernels make_matmul_kernels<FormatQ4_1>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
