// Stands in for the CUDA backend in builds without it.
#include "backend/registry.h"
#include "base/error.h"

namespace frspec {

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions&) {
  throw InvalidInput("device: found 'cuda', but this build of frspec has no CUDA backend; use device 'cpu'");
}

}  // namespace frspec
