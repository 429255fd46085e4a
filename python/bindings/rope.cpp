// RopeOptions in Python.
#include <new>
#include <optional>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "model/rope_options.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

void make_options(RopeOptions* self, const std::optional<std::string>& scaling_type, float freq_base, float freq_scale,
                  int orig_ctx, float ext_factor, float attn_factor, float beta_fast, float beta_slow) {
  RopeOptions options;
  if (scaling_type) options.scaling = parse_rope_scaling(*scaling_type);
  options.freq_base = freq_base;
  options.freq_scale = freq_scale;
  options.original_context = orig_ctx;
  options.extrapolation = ext_factor;
  options.attention_factor = attn_factor;
  options.beta_fast = beta_fast;
  options.beta_slow = beta_slow;
  new (self) RopeOptions(options);
}

}  // namespace

void init_rope(nb::module_& m) {
  nb::class_<RopeOptions>(m, "RopeOptions", "What ``LLM`` changes of a model's rotary embedding, under its names.")
      .def("__init__", &make_options, "scaling_type"_a = nb::none(), "freq_base"_a = 0.0f, "freq_scale"_a = 0.0f,
           "orig_ctx"_a = 0, "ext_factor"_a = -1.0f, "attn_factor"_a = -1.0f, "beta_fast"_a = -1.0f,
           "beta_slow"_a = -1.0f);
}

}  // namespace frspec
