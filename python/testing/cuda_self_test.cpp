// `_testing.cuda_self_test`: tests of the emulated CUDA device itself.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "backend/self_test.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using InputWords = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

OutputVector<std::uint32_t> self_test(const std::string& name, const InputWords& words) {
  std::vector<std::uint32_t> found;
  {
    const WithoutGil released;  // several threads may have devices of their own
    found = run_cuda_self_test(name, std::span(words.data(), words.size()));
  }
  const std::size_t count = found.size();
  return to_array<OutputVector<std::uint32_t>>(std::move(found), {count});
}

}  // namespace

void init_cuda_self_test(nb::module_& m) {
  m.def("cuda_self_test", &self_test, "name"_a, "words"_a,
        "Runs a kernel of cuda/emulation/self_test.cu on some words (n,) uint32, and gives words.");
}

}  // namespace frspec
