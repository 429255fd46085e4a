// Stands in for the CUDA backend in builds without it.
#include "backend/registry.h"
#include "base/error.h"

namespace frspec {

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options, int) {
  fail("device: found '", options.device,
       "', but this build of frspec has no CUDA backend: install it with "
       "'pip install . -C cmake.define.FRSPEC_CUDA=ON' where there is a CUDA toolkit, or use device 'cpu'");
}

}  // namespace frspec
