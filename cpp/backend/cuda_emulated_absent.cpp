// Stands in for the emulated CUDA backend in builds without it.
#include "backend/registry.h"
#include "backend/self_test.h"
#include "base/error.h"

namespace frspec {
namespace {

[[noreturn]] void refuse(const std::string& device) {
  fail("device: found '", device,
       "', but this build of frspec has no emulated CUDA backend (FRSPEC_TESTING=OFF); use device 'cpu'");
}

}  // namespace

std::unique_ptr<Backend> make_cuda_emulated_backend(const BackendOptions& options, int) { refuse(options.device); }

std::vector<std::uint32_t> run_cuda_self_test(const std::string&, std::span<const std::uint32_t>) {
  refuse("cuda-emulated");
}

}  // namespace frspec
