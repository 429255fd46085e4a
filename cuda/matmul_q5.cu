// Matrix products with Q5_0 and Q5_1 weights (matmul.cuh).
#include "cuda/formats/blocks.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatQ5_0>();
template MatmulKernels make_matmul_kernels<FormatQ5_1>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
