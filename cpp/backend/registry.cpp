// Which backends there are, by name.
#include "backend/registry.h"
#include "backend/backend.h"
#include "base/error.h"

namespace frspec {

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  if (options.device == "cpu") return make_cpu_backend(options);
  if (options.device == "cuda") return make_cuda_backend(options);
  fail("device: found '", options.device, "', expected 'cpu' or 'cuda'");
}

std::vector<std::string> backend_names() { return {"cpu", "cuda"}; }

}  // namespace frspec
