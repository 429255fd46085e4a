// `_core.Tuner`: the decision of what to draft, for simulations (tests/engine/test_tuner.py).
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "engine/costs.h"
#include "engine/tuner.h"
#include "tree/limited_growth.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Planned = std::tuple<bool, int, bool>;
using Note = std::tuple<float, int>;

NodeNote to_note(const Note& note) { return {std::get<0>(note), static_cast<std::uint16_t>(std::get<1>(note))}; }
Tuner::Plan to_plan(const Planned& plan) {
  const auto [drafts, arm, forced] = plan;
  return {.drafts = drafts, .arm = arm, .planned = true, .forced = forced};
}
Note from_note(const NodeNote& note) { return {note.chance, note.cell}; }

void make_tuner(Tuner* self, const std::vector<std::tuple<std::string, std::string, double, double>>& arms, bool grows,
                int levels, nb::object clock) {
  std::vector<Tuner::Arm> made;
  for (const auto& [head, translation, root, row] : arms) made.push_back({head, translation, root, row});
  new (self) Tuner(std::move(made), grows, levels, [clock = std::move(clock)] { return nb::cast<double>(clock()); });
}

void add_step(Tuner& self, const Planned& plan, bool drafted, int rows, int read_rows, double read_seconds,
              double grown_seconds, double target_seconds, int accepted, double expected, bool has_notes,
              const std::vector<std::tuple<int, bool>>& nodes, const std::vector<std::tuple<int, bool>>& parents,
              const std::vector<std::uint32_t>& held) {
  Tuner::Plan planned = to_plan(plan);
  if (!drafted) planned.reads = read_rows;
  Tuner::Step step{.plan = planned,
                   .pass = self.pass(),
                   .growing = drafted ? self.end_growth() : Tuner::Growing{},
                   .drafted = drafted,
                   .rows = rows,
                   .read_rows = read_rows,
                   .read_seconds = read_seconds,
                   .grown_seconds = grown_seconds,
                   .target_seconds = target_seconds,
                   .accepted = accepted,
                   .expected = expected,
                   .has_notes = has_notes,
                   .held = held};
  for (const auto& [cell, hit] : nodes) step.nodes.push_back({static_cast<std::uint16_t>(cell), hit});
  for (const auto& [cell, hit] : parents) step.parents.push_back({static_cast<std::uint16_t>(cell), hit});
  self.add(step);
}

}  // namespace

void init_tuner(nb::module_& m) {
  m.def(
      "drafts_within",
      [](int nodes, int most, int least, int room) { return DraftLimits{most, least}.within(room).of(nodes); },
      "nodes"_a, "most"_a, "least"_a, "room"_a, "How many of so many nodes are drafted (tree/limited_growth.h).");
  nb::class_<RowCosts>(m, "RowCosts", "What passes cost (engine/costs.h).")
      .def(nb::init<double, double, bool>(), "one_row"_a = 0.0, "further_row"_a = 0.1, "whole"_a = true)
      .def(
          "__call__", [](const RowCosts& self, int rows) { return self(rows); }, "rows"_a)
      .def("is_known_up_to", &RowCosts::is_known_up_to, "rows"_a)
      .def("add", &RowCosts::add, "rows"_a, "seconds"_a)
      .def("numbers", &RowCosts::numbers, "Seconds and passes of each of the sizes that are told apart.")
      .def(
          "restore", [](RowCosts& self, const std::vector<double>& numbers) { self.restore(numbers); }, "numbers"_a)
      .def("rows_within", &RowCosts::rows_within, "seconds"_a, "least"_a, "most"_a);
  nb::class_<Tuner>(m, "Tuner", "What to draft with, how far, and whether at all (engine/tuner.h).")
      .def("__init__", &make_tuner, "arms"_a, "grows"_a, "levels"_a, "clock"_a,
           "Arms (head, translation, seconds for one state, for each state more); a clock in seconds.")
      .def("know_target", &Tuner::know_target, "rows"_a, "seconds"_a)
      .def("begin_text", &Tuner::begin_text, "noisy"_a)
      .def(
          "next",
          [](Tuner& self, bool may_pause, int unread, std::int64_t left, std::int64_t written, int piece,
             std::uint64_t text) {
            const Tuner::Plan plan = self.next(
                may_pause,
                {.id = text, .written = written, .left = left, .piece = piece, .unread = [unread] { return unread; }});
            return std::pair{Planned{plan.drafts, plan.arm, plan.forced}, plan.reads};
          },
          "may_pause"_a, "unread"_a = 1, "left"_a = 1 << 20, "written"_a = 0, "piece"_a = 1 << 20, "text"_a = 1,
          "The next step: whether it drafts, the arm, and whether there must be a draft; and rows that are read "
          "instead.\nSo many rows of this text are unread by the drafter, of which it may read a piece.")
      .def(
          "join", [](Tuner& self, int texts, int rows) { self.join({texts, rows}); }, "texts"_a, "rows"_a,
          "What was learned before is of texts that were alone.")
      .def(
          "begin_growth", [](Tuner& self, const Planned& plan) { self.begin_growth(to_plan(plan)); }, "plan"_a)
      .def("end_growth", [](Tuner& self) { (void)self.end_growth(); })
      .def(
          "set_pass", [](Tuner& self, int texts, int rows) { self.set_pass({texts, rows}); }, "texts"_a, "rows"_a,
          "Texts that the pass writes, and its rows beside this one's.")
      .def(
          "judge",
          [](const Tuner& self, const Note& parent, float score, int depth) {
            return from_note(self.judge(to_note(parent), score, depth));
          },
          "parent"_a, "score"_a, "depth"_a, "A child's chance and cell.")
      .def(
          "judge_repeated",
          [](const Tuner& self, const Note& parent, int matched, int depth) {
            return from_note(self.judge_repeated(to_note(parent), matched, depth));
          },
          "parent"_a, "matched"_a, "depth"_a)
      .def(
          "drafts_beside", [](Tuner& self, const std::vector<float>& chances) { return self.drafts_beside(chances); },
          "repeated"_a)
      .def(
          "width",
          [](Tuner& self, const std::vector<Note>& frontier, const std::vector<float>& chances) {
            std::vector<NodeNote> notes;
            for (const Note& note : frontier) notes.push_back(to_note(note));
            return self.width(notes, chances);
          },
          "frontier"_a, "chances"_a)
      .def(
          "size", [](const Tuner& self, const std::vector<float>& chances) { return self.size(chances); }, "chances"_a)
      .def("rehearse", &Tuner::rehearse, "widths"_a)
      .def("add", &add_step, "plan"_a, "drafted"_a, "rows"_a, "read_rows"_a, "read_seconds"_a, "grown_seconds"_a,
           "target_seconds"_a, "accepted"_a, "expected"_a, "has_notes"_a, "nodes"_a, "parents"_a, "held"_a,
           "What a step cost and showed, as Tuner::Step.")
      .def(
          "size_within",
          [](Tuner& self, const std::vector<float>& chances, int most, int least, float chance) {
            return LimitedGrowth(self, {most, least, chance}).size(chances);
          },
          "chances"_a, "most"_a, "least"_a, "chance"_a, "As size(), where a text limits its drafts.")
      .def("numbers", &Tuner::numbers, "What is kept from process to process.")
      .def(
          "restore", [](Tuner& self, const std::vector<double>& numbers) { return self.restore(numbers); }, "numbers"_a)
      .def("is_steady", &Tuner::is_steady)
      .def(
          "choice",
          [](const Tuner& self) {
            const Tuner::Choice found = self.choice();
            nb::dict result;
            result["arm"] = found.arm;
            result["drafts"] = found.drafts;
            result["nodes"] = found.nodes;
            result["levels"] = found.levels;
            result["gain"] = found.gain;
            result["cost"] = found.cost;
            result["tokens_per_second"] = found.tokens_per_second;
            result["plain_tokens_per_second"] = found.plain_tokens_per_second;
            return result;
          },
          nb::sig("def choice(self) -> dict[str, float]"), "What was found so far.");
}

}  // namespace frspec
