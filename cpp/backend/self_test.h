// Tests of the emulated CUDA device itself: small kernels, right ones and wrong ones (cuda/emulation/self_test.cu).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace frspec {

// Runs one of them on the given words; what it gives is said where it is defined. Throws Error where a kernel breaks a
// rule, InvalidInput for an unknown name or in a build without the emulation.
std::vector<std::uint32_t> run_cuda_self_test(const std::string& name, std::span<const std::uint32_t> words);

}  // namespace frspec
