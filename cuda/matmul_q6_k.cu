// Matrix products with Q6_K weights (matmul.cuh).
#include "cuda/formats/q6_k.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatQ6_K>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
