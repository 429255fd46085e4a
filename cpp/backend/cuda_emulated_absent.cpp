// Stands in for the emulated CUDA backend in builds without it.
#include "backend/registry.h"
#include "base/error.h"

namespace frspec {

std::unique_ptr<Backend> make_cuda_emulated_backend(const BackendOptions& options, int) {
  fail("device: found '", options.device,
       "', but this build of frspec has no emulated CUDA backend (FRSPEC_CUDA_EMULATED=OFF); use device 'cpu'");
}

}  // namespace frspec
