// Matrix products with Q8_0 weights (matmul.cuh).
#include "cuda/formats/blocks.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatQ8_0>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
