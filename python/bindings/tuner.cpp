// `_core.Tuner`: the choice of head, tree and whether to draft, for tests with made-up costs.
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "engine/tuner.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Shape = std::tuple<int, int, int>;
using Planned = std::tuple<bool, int, int>;

void make_tuner(Tuner* self, const std::vector<std::tuple<std::string, double, double>>& heads,
                const std::vector<Shape>& shapes) {
  std::vector<Tuner::Head> made;
  for (const auto& [name, root, level] : heads) made.push_back({name, root, level});
  std::vector<TreeShape> trees;
  for (const auto& [depth, branch, size] : shapes) trees.push_back({depth, branch, size});
  new (self) Tuner(std::move(made), std::move(trees));
}

}  // namespace

void init_tuner(nb::module_& m) {
  nb::class_<Tuner>(m, "Tuner", "What to draft with, and whether at all, learned from steps (docs/heads.md).")
      .def("__init__", &make_tuner, "heads"_a, "shapes"_a,
           "Heads (name, seconds at the root, seconds of a level), the one that misses least first; shapes (depth, "
           "branch, size), the smallest first.")
      .def_static(
          "shapes_up_to",
          [](const Shape& largest) {
            std::vector<Shape> shapes;
            for (const TreeShape& s :
                 shapes_up_to({std::get<0>(largest), std::get<1>(largest), std::get<2>(largest)})) {
              shapes.emplace_back(s.depth, s.branch, s.size);
            }
            return shapes;
          },
          "largest"_a, "The shapes that are tried where the largest one is given.")
      .def("know_target", &Tuner::know_target, "plain_seconds"_a, "largest_seconds"_a,
           "How long a pass of the target takes with one row, and with the largest tree.")
      .def(
          "next",
          [](Tuner& self, bool may_pause) {
            const Tuner::Plan plan = self.next(may_pause);
            return Planned{plan.drafts, plan.head, plan.shape};
          },
          "may_pause"_a, "The next step: whether it drafts, the head and the shape.")
      .def("steady_steps", &Tuner::steady_steps, "How many more steps next() need not be asked about.")
      .def(
          "again",
          [](Tuner& self) {
            const Tuner::Plan plan = self.again();
            return Planned{plan.drafts, plan.head, plan.shape};
          },
          "The plan of one of them.")
      .def(
          "add",
          [](Tuner& self, const Planned& plan, double draft_seconds, double seconds, int tokens,
             const std::vector<std::pair<int, std::uint32_t>>& accepted) {
            Tuner::Step step;
            step.plan = {std::get<0>(plan), std::get<1>(plan), std::get<2>(plan), true};
            step.draft_seconds = draft_seconds;
            step.seconds = seconds;
            step.tokens = tokens;
            for (const auto& [rank, heads] : accepted) step.accepted.push_back({rank, heads});
            step.is_ranked = true;
            self.add(step);
          },
          "plan"_a, "draft_seconds"_a, "seconds"_a, "tokens"_a, "accepted"_a,
          "What the step cost and gave; its accepted nodes: rank by score, and the heads that hold the token, as bits.")
      .def("tokens", &Tuner::tokens, "head"_a, "shape"_a, "Expected of a step.")
      .def("seconds", &Tuner::seconds, "head"_a, "shape"_a, "Expected of a step.")
      .def(
          "choice",
          [](const Tuner& self) {
            const Tuner::Choice found = self.choice();
            nb::dict result;
            result["drafts"] = found.plan.drafts;
            result["head"] = found.plan.head;
            result["shape"] = found.plan.shape;
            result["rho"] = found.rho;
            result["nu"] = found.nu;
            result["kappa"] = found.kappa;
            result["tokens_per_second"] = found.tokens_per_second;
            result["plain_tokens_per_second"] = found.plain_tokens_per_second;
            return result;
          },
          nb::sig("def choice(self) -> dict[str, float]"), "What was found best so far.");
}

}  // namespace frspec
