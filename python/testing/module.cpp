// The extension module `frspec_cpp._testing`: single operations and other insides, for tests (FRSPEC_TESTING). Its
// errors become Python exceptions by what `_core`, which must be imported before, has registered.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace frspec {

void init_ops(nb::module_& m);
void init_head_ops(nb::module_& m);
void init_tree_ops(nb::module_& m);
void init_cache_ops(nb::module_& m);
void init_delta_ops(nb::module_& m);
void init_page_ops(nb::module_& m);
void init_matmul_ops(nb::module_& m);
void init_cuda_self_test(nb::module_& m);
void init_ranks(nb::module_& m);
void init_retokenize(nb::module_& m);
void init_tuner(nb::module_& m);

}  // namespace frspec

NB_MODULE(_testing, m) {
  m.doc() = "Insides of frspec_cpp, for its tests.";
  nb::set_leak_warnings(false);  // as in _core, whose objects it is given
  frspec::init_ops(m);
  frspec::init_head_ops(m);
  frspec::init_tree_ops(m);
  frspec::init_cache_ops(m);
  frspec::init_delta_ops(m);
  frspec::init_page_ops(m);
  frspec::init_matmul_ops(m);
  frspec::init_cuda_self_test(m);
  frspec::init_ranks(m);
  frspec::init_retokenize(m);
  frspec::init_tuner(m);
}
