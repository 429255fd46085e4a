// The namespace of everything here: both builds of the backend may be linked into one program.
#pragma once

#ifdef FRSPEC_CUDA_EMULATED
#define FRSPEC_CUDA_NAMESPACE cuda_emulated
#else
#define FRSPEC_CUDA_NAMESPACE cuda
#endif
