// Matrix products with coded rows (matmul.cuh).
#include "cuda/formats/coded.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatCoded>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
