// The factories of the backends. Each is defined in its backend's folder, or by a linked stub that says what is
// missing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace frspec {

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);
// `index`: of the device.
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options, int index);
std::unique_ptr<Backend> make_cuda_emulated_backend(const BackendOptions& options, int index);

// Instruction sets that the CPU backend was built for and this machine has, best first: "avx512", "avx2",
// "generic" and the like (docs/architecture.md has all).
std::vector<std::string> cpu_instruction_sets();

}  // namespace frspec
