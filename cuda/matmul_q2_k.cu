// Matrix products with Q2_K weights (matmul.cuh).
#include "cuda/formats/q2_k.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatQ2_K>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
