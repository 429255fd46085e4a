// What kernels are written in: CUDA C++, or ordinary C++ over the host emulation (emulation/). Only this folder knows
// which of the two it is; kernels use the names below.
//
// Blocks are one-dimensional and a multiple of 32 threads. All 32 threads of a warp take part in every collective
// operation of warp.cuh, mma.cuh and block.cuh.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef FRSPEC_CUDA_EMULATED
#include "cuda/emulation/block.h"
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#else
#include <cuda_runtime.h>
#endif
#include "cuda/namespace.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

inline constexpr int kWarp = 32;

#ifdef FRSPEC_CUDA_EMULATED
inline int thread() { return emulation::current_block().thread(); }
inline int threads() { return emulation::current_block().threads(); }
inline int block_x() { return emulation::current_block().index(0); }
inline int block_y() { return emulation::current_block().index(1); }
inline int block_z() { return emulation::current_block().index(2); }
inline int grid_x() { return emulation::current_block().grid(0); }
inline int grid_y() { return emulation::current_block().grid(1); }
inline int grid_z() { return emulation::current_block().grid(2); }
#else
__device__ inline int thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int threads() { return static_cast<int>(blockDim.x); }
__device__ inline int block_x() { return static_cast<int>(blockIdx.x); }
__device__ inline int block_y() { return static_cast<int>(blockIdx.y); }
__device__ inline int block_z() { return static_cast<int>(blockIdx.z); }
__device__ inline int grid_x() { return static_cast<int>(gridDim.x); }
__device__ inline int grid_y() { return static_cast<int>(gridDim.y); }
__device__ inline int grid_z() { return static_cast<int>(gridDim.z); }
#endif

__device__ inline int lane() { return thread() % kWarp; }
__device__ inline int warp() { return thread() / kWarp; }
__device__ inline int warps() { return threads() / kWarp; }

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
