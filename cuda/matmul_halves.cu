// Matrix products with F16 and BF16 weights (matmul.cuh).
#include "cuda/formats/halves.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatF16>();
template MatmulKernels make_matmul_kernels<FormatBF16>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
