// CPU backend: mixtures of experts. The rows that have chosen an expert are brought together, so that its weights are
// read once for all of them; a row adds what its experts say in their order, so it does not matter who else is there.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

struct ExpertChoice {
  std::int32_t expert;
  float weight;
};

// The best `used` of the scores, by expert, and the softmax over them. NaN counts as -infinity.
void pick(ExpertChoice* chosen, const float* scores, std::int64_t experts, int used) {
  int kept = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const ExpertChoice offered{static_cast<std::int32_t>(e), std::isnan(scores[e]) ? kLowest : scores[e]};
    if (kept == used && !(offered.weight > chosen[used - 1].weight)) continue;
    int at = kept < used ? kept++ : used - 1;
    for (; at > 0 && offered.weight > chosen[at - 1].weight; --at) chosen[at] = chosen[at - 1];
    chosen[at] = offered;
  }
  const float best = chosen[0].weight;
  float total = 0.0f;
  for (int i = 0; i < used; ++i) total += chosen[i].weight = std::exp(chosen[i].weight - best);
  for (int i = 0; i < used; ++i) chosen[i].weight /= total;
  std::sort(chosen, chosen + used, [](const ExpertChoice& a, const ExpertChoice& b) { return a.expert < b.expert; });
}

}  // namespace

void CpuBackend::run_experts(Tensor out, Tensor x, Tensor scores, const Experts& experts) {
  const auto& gate = static_cast<const CpuExperts&>(*experts.gate);
  const auto& up = static_cast<const CpuExperts&>(*experts.up);
  const auto& down = static_cast<const CpuExperts&>(*experts.down);
  const std::int64_t ff = down.cols();
  const int used = experts.used;
  auto* chosen =
      reinterpret_cast<ExpertChoice*>(chosen_.bytes(static_cast<std::size_t>(x.rows * used) * sizeof(ExpertChoice)));
  for (std::int64_t r = 0; r < x.rows; ++r) {
    pick(chosen + r * used, scores.row(r), scores.cols, used);
    std::memset(out.row(r), 0, static_cast<std::size_t>(out.cols) * sizeof(float));
  }
  float* memory = expert_rows_.floats(static_cast<std::size_t>(x.rows * (x.cols + 2 * ff + out.cols)));
  const auto take = [&](std::int64_t cols) {
    const Tensor part{memory, x.rows, cols, cols};
    memory += x.rows * cols;
    return part;
  };
  const Tensor inputs = take(x.cols), gates = take(ff), ups = take(ff), outputs = take(out.cols);
  for (std::int64_t e = 0; e < scores.cols; ++e) {
    std::int64_t count = 0;
    const auto for_each_row = [&](auto&& use) {  // that has chosen the expert
      for (std::int64_t r = 0; r < x.rows; ++r) {
        for (int i = 0; i < used; ++i) {
          if (chosen[r * used + i].expert == e) use(r, chosen[r * used + i].weight);
        }
      }
    };
    for_each_row([&](std::int64_t r, float) {
      std::memcpy(inputs.row(count++), x.row(r), static_cast<std::size_t>(x.cols) * sizeof(float));
    });
    if (count == 0) continue;
    const auto bias = [e](const float* all, std::int64_t width) { return all != nullptr ? all + e * width : nullptr; };
    const Tensor gated = gates.first_rows(count), result = outputs.first_rows(count);
    matmul({inputs.first_rows(count)},
           std::array{Projection{gated, &gate[e], bias(experts.gate_bias, ff)},
                      Projection{ups.first_rows(count), &up[e], bias(experts.up_bias, ff)}});
    matmul({.x = gated, .up = ups.data, .activation = experts.activation},
           std::array{Projection{result, &down[e], bias(experts.down_bias, out.cols)}});
    count = 0;
    for_each_row(
        [&](std::int64_t r, float weight) { kernels_.add_scaled(out.row(r), result.row(count++), weight, out.cols); });
  }
}

}  // namespace frspec::cpu
