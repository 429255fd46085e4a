// Matrix products with Q5_K weights (matmul.cuh).
#include "cuda/formats/k_quants.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatQ5_K>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
