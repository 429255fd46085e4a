// Matrix products with IQ4_NL and MXFP4 weights (matmul.cuh).
#include "cuda/formats/blocks.cuh"
#include "cuda/matmul.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

template MatmulKernels make_matmul_kernels<FormatIQ4_NL>();
template MatmulKernels make_matmul_kernels<FormatMXFP4>();

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
