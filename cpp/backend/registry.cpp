// Which backends there are, by name.
#include "backend/registry.h"

#include <charconv>
#include <cstdlib>

#include "backend/backend.h"
#include "base/error.h"

namespace frspec {
namespace {

constexpr int kMostDevices = 1024;

// The device number of a name like "cuda:1".
int device_index(const std::string& device, std::size_t colon) {
  if (colon == std::string::npos) return 0;
  int index = -1;
  const char* end = device.data() + device.size();
  const auto [stop, error] = std::from_chars(device.data() + colon + 1, end, index);
  if (error != std::errc() || stop != end || index < 0 || index >= kMostDevices) {
    fail("device: found '", device, "', expected the number of a device behind the colon, as in 'cuda:0'");
  }
  return index;
}

}  // namespace

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  const std::size_t colon = options.device.find(':');
  const std::string name = options.device.substr(0, colon);
  if (options.device == "cpu") return make_cpu_backend(options);
  if (name == "cuda") return make_cuda_backend(options, device_index(options.device, colon));
  if (name == "cuda-emulated") return make_cuda_emulated_backend(options, device_index(options.device, colon));
  fail("device: found '", options.device, "', expected 'cpu', 'cuda' or 'cuda:N', or 'cuda-emulated'");
}

void Backend::missing(const char* operation) const {
  throw Error(concat("backend ", description(), ": found no operation '", operation, "'"));
}

std::string default_device() {
  const char* device = std::getenv("FRSPEC_DEVICE");
  return device != nullptr && *device != '\0' ? device : "cpu";
}

std::vector<std::string> backend_names() { return {"cpu", "cuda", "cuda-emulated"}; }

}  // namespace frspec
