// Sequences and their statistics in Python. While one is written, the GIL is taken now and then to let Python's signal
// handlers run, so that Ctrl-C stops a long prompt and a long answer, too.
#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "base/error.h"
#include "gil.h"
#include "py_engine.h"

namespace nb = nanobind;

namespace frspec {
namespace {

constexpr std::chrono::milliseconds kPythonPeriod{20};

nb::list to_list(const std::vector<GeneratedToken>& tokens) {
  nb::list list;
  for (const GeneratedToken& token : tokens) list.append(nb::make_tuple(token.id, token.drafted, token.text));
  return list;
}

}  // namespace

PyGeneration::PyGeneration(const PyEngine& engine, std::shared_ptr<Sequence> sequence, nb::object cancel)
    : engine_(engine), sequence_(std::move(sequence)), cancel_(std::move(cancel)) {
  sequence_->on_progress([this] { return !python_is_due() || !python_stops(); });
}

template <class Read>
auto PyGeneration::look(Read&& read) {
  const WithoutGil released;
  const std::scoped_lock lock(mutex_);
  return read(*sequence_);
}

std::optional<std::string> PyGeneration::finish_reason() {
  return look([](const Sequence& sequence) -> std::optional<std::string> {
    if (sequence.finish_reason() == FinishReason::None) return std::nullopt;
    return finish_reason_name(sequence.finish_reason());
  });
}

// Of every token from `first` on: its log-probability, and the best tokens with theirs.
nb::list PyGeneration::logprobs_from(std::size_t first) {
  const auto found = look([first](const Sequence& sequence) {
    const auto all = sequence.logprobs();
    return std::vector<TokenLogprobs>(all.begin() + static_cast<std::ptrdiff_t>(std::min(first, all.size())),
                                      all.end());
  });
  nb::list list;
  for (const TokenLogprobs& token : found) {
    nb::list best;
    for (const auto& [id, value] : token.best) best.append(nb::make_tuple(id, value));
    list.append(nb::make_tuple(token.chosen, best));
  }
  return list;
}

// Of every step so far: the fields of frspec_cpp.Step.
nb::list PyGeneration::trace() {
  const auto found = look([](const Sequence& sequence) {
    return std::vector<StepTrace>(sequence.trace().begin(), sequence.trace().end());
  });
  nb::list list;
  for (const StepTrace& step : found) {
    nb::dict fields;
    fields["tokens"] = step.tokens;
    fields["accepted"] = step.accepted;
    fields["nodes"] = step.nodes;
    fields["offered"] = step.offered;
    fields["in_subset"] = step.in_subset;
    fields["transformer_seconds"] = step.transformer_seconds;
    fields["head_seconds"] = step.head_seconds;
    fields["verify_seconds"] = step.verify_seconds;
    fields["total_seconds"] = step.total_seconds;
    list.append(fields);
  }
  return list;
}

// Of every step so far: the nodes of a tree that was not verified.
nb::list PyGeneration::watched() {
  const auto found = look([](const Sequence& sequence) {
    return std::vector<StepTrace>(sequence.trace().begin(), sequence.trace().end());
  });
  nb::list list;
  for (const StepTrace& step : found) {
    nb::list nodes;
    for (const auto& node : step.watched) nodes.append(nb::make_tuple(node.token, node.parent, node.score));
    list.append(nodes);
  }
  return list;
}

void PyGeneration::raise_error() {
  const std::exception_ptr error = look([](const Sequence& sequence) { return sequence.error(); });
  if (!error) return;
  try {
    std::rethrow_exception(error);
  } catch (nb::python_error& raised) {
    if (raised.value().is_valid()) throw;
    throw Error("this generation cannot go on: an earlier step of it has failed");  // Python has its exception already
  }
}

std::string PyGeneration::closing_text() {
  return look([](const Sequence& sequence) { return sequence.closing_text(); });
}

Stats PyGeneration::stats() {
  return look([](const Sequence& sequence) { return sequence.stats(); });
}

// One step, or all that are left.
nb::list PyGeneration::write(bool all) {
  const std::shared_ptr<Engine> engine = engine_.open();  // not closed before this is done
  std::vector<GeneratedToken> tokens;
  {
    const WithoutGil released;
    const std::scoped_lock lock(mutex_);
    raised_ = false;
    do {
      if (python_is_due() && python_stops() && raised_) break;
      const auto fresh = engine->step(*sequence_);
      tokens.insert(tokens.end(), fresh.begin(), fresh.end());
    } while (all && sequence_->finish_reason() == FinishReason::None && !raised_ && !hands_over_.load());
  }
  // The exception of a signal handler was left pending in this thread.
  if (PyErr_Occurred() != nullptr) throw nb::python_error();
  return to_list(tokens);
}

nb::list PyGeneration::step_together(const std::vector<PyGeneration*>& generations) {
  std::vector<std::vector<GeneratedToken>> tokens(generations.size());
  if (generations.empty()) return {};
  const std::shared_ptr<Engine> engine = generations[0]->engine_.open();
  {
    const WithoutGil released;
    // In one order, whoever asks.
    std::vector<PyGeneration*> all(generations);
    std::sort(all.begin(), all.end(), std::less<>());
    if (std::adjacent_find(all.begin(), all.end()) != all.end()) fail("step_together: found a text twice");
    std::vector<std::unique_lock<OwnedMutex>> locks;
    for (PyGeneration* one : all) {
      if (&one->engine_ != &generations[0]->engine_) fail("step_together: found texts of two engines");
      locks.emplace_back(one->mutex_);
    }
    std::vector<Sequence*> sequences;
    for (PyGeneration* one : generations) sequences.push_back(one->sequence_.get());
    engine->step(sequences);
    for (std::size_t i = 0; i < generations.size(); ++i) {
      const auto fresh = sequences[i]->fresh();
      tokens[i].assign(fresh.begin(), fresh.end());
    }
  }
  if (PyErr_Occurred() != nullptr) throw nb::python_error();  // of a signal, or of what was asked whether to end
  nb::list all;
  for (std::size_t i = 0; i < generations.size(); ++i) {
    if (generations[i]->sequence_->error()) {
      all.append(nb::none());
    } else {
      all.append(to_list(tokens[i]));
    }
  }
  return all;
}

// Waiting for the GIL may take some milliseconds where other threads compute in Python: not every time.
bool PyGeneration::python_is_due() {
  const Clock::time_point now = Clock::now();
  if (now - asked_ < kPythonPeriod) return false;
  asked_ = now;
  return true;
}

// Whether a signal handler raised, or the text was cancelled by what is asked about that.
bool PyGeneration::python_stops() {
  const WithGil gil;
  raised_ = run_python(PyErr_CheckSignals) != 0;
  if (raised_ || cancel_.is_none()) return raised_;
  PyObject* answer = run_python([&] { return PyObject_CallMethod(cancel_.ptr(), "is_set", nullptr); });
  const int is_set = answer == nullptr ? -1 : PyObject_IsTrue(answer);
  Py_XDECREF(answer);
  raised_ = is_set < 0;
  if (is_set > 0) sequence_->cancel();
  return is_set != 0;
}

namespace {

void init_stats(nb::module_& m) {
  nb::class_<Stats>(m, "Stats", "What a text has cost so far, and what drafting gained.")
      .def_ro("prompt_tokens", &Stats::prompt_tokens, "Tokens of the prompt.")
      .def_ro("cached_tokens", &Stats::cached_tokens, "Those of them that an earlier text had left in the cache.")
      .def_ro("read_tokens", &Stats::read_tokens,
              "Of what is read before the text goes on: those that are in the cache so far.")
      .def_ro("generated_tokens", &Stats::generated_tokens, "Tokens handed out.")
      .def_ro("steps", &Stats::steps, "Passes of the target after the prompt.")
      .def_ro("drafted_steps", &Stats::drafted_steps, "Those of them that verified drafts.")
      .def_ro("drafted_tokens", &Stats::drafted_tokens, "Drafts that these verified, accepted or not.")
      .def_ro("forced_tokens", &Stats::forced_tokens, "Accepted drafts that were the grammar's own.")
      .def_ro("seed", &Stats::seed, "Of the sampling.")
      .def_ro("ranks", &Stats::ranks, "Where the ranks of the drafter's head came from, or an empty string.")
      .def_ro("drafter_error", &Stats::drafter_error, "Why the drafter gave up, or an empty string.")
      .def_ro("adapt_error", &Stats::adapt_error, "Why the ranks could not be saved, or an empty string.")
      .def_ro("adapted_rows", &Stats::adapted_rows, "Rows of the head that changed before the text began.")
      .def_ro("adapt_seconds", &Stats::adapt_seconds, "That this took, in seconds.")
      .def_ro("prefill_seconds", &Stats::prefill_seconds, "The prompt and the first token, in seconds.")
      .def_ro("draft_seconds", &Stats::draft_seconds, "Drafting, in seconds.")
      .def_ro("verify_seconds", &Stats::verify_seconds, "Passes of the target, in seconds.")
      .def_ro("total_seconds", &Stats::total_seconds, "All of it, in seconds.")
      .def_prop_ro(
          "tuning",
          [](const Stats& self) -> nb::object {
            if (!self.tuning) return nb::none();
            nb::dict found;
            found["head"] = self.tuning->head;
            found["translation"] = self.tuning->translation;
            found["drafts"] = self.tuning->drafts;
            found["nodes"] = self.tuning->nodes;
            found["levels"] = self.tuning->levels;
            found["gain"] = self.tuning->gain;
            found["cost"] = self.tuning->cost;
            found["tokens_per_second"] = self.tuning->tokens_per_second;
            found["plain_tokens_per_second"] = self.tuning->plain_tokens_per_second;
            found["summary"] = self.tuning->summary;
            return found;
          },
          nb::sig("def tuning(self) -> dict[str, typing.Any] | None"),
          "What was found best to draft with, when the text ended; None without a drafter.")
      .def_prop_ro("accepted_length", &Stats::accepted_length, "Tokens per pass: accepted drafts + 1.")
      .def_prop_ro("tokens_per_second", &Stats::tokens_per_second, "Tokens over the time after the prompt.");
}

}  // namespace

void init_generation(nb::module_& m) {
  init_stats(m);
  nb::class_<PyGeneration>(m, "Generation", "A text being written, made by ``Engine.begin``.")
      .def("step", &PyGeneration::step, nb::sig("def step(self) -> list[tuple[int, bool, str]]"),
           "The tokens of one pass of the target: each with whether a draft had foreseen it and the text that can be "
           "shown with it; none where the text has ended. The first call reads the prompt.\n\n"
           "Raises:\n    RuntimeError: An earlier step has failed.")
      .def("run", &PyGeneration::run, nb::sig("def run(self) -> list[tuple[int, bool, str]]"),
           "All steps that are left, unless it is handed over.\n\nRaises:\n    RuntimeError: An earlier step has "
           "failed.")
      .def_static("step_together", &PyGeneration::step_together, nb::arg("generations"),
                  nb::sig("def step_together(generations: Sequence[Generation]) -> "
                          "list[list[tuple[int, bool, str]] | None]"),
                  "One pass of the target for several texts of one engine, which are to be the same from step to step, "
                  "those in front being served first. What each was given: nothing where it waits for room or its "
                  "prompt is being read; None where it failed: ``raise_error`` tells why.")
      .def("hand_over", &PyGeneration::hand_over,
           "Lets ``run`` return behind the step that is running, with what there is. From any thread.")
      .def("raise_error", &PyGeneration::raise_error,
           "Raises what has ended the text before its end, where something has.")
      .def(
          "cancel", &PyGeneration::cancel,
          "Ends the text: the step that is running is the last one; a prompt that is being read is abandoned. From any "
          "thread.")
      .def_prop_ro("closing_text", &PyGeneration::closing_text,
                   "What follows the last token's text once it has ended: what had been held back until then.")
      .def_prop_ro("logprobs", &PyGeneration::logprobs,
                   nb::sig("def logprobs(self) -> list[tuple[float, list[tuple[int, float]]]]"),
                   "Log-probability of every token so far, and the best tokens with theirs, where asked for.")
      .def("logprobs_from", &PyGeneration::logprobs_from, nb::arg("first"),
           nb::sig("def logprobs_from(self, first: int) -> list[tuple[float, list[tuple[int, float]]]]"),
           "The same of the tokens from number ``first`` on.")
      .def_prop_ro("trace", &PyGeneration::trace, nb::sig("def trace(self) -> list[dict[str, typing.Any]]"),
                   "Every step so far, where asked for: the fields of ``frspec_cpp.Step``.")
      .def_prop_ro(
          "watched", &PyGeneration::watched, nb::sig("def watched(self) -> list[list[tuple[int, int, float]]]"),
          "With ``draft=\"watch\"`` and ``trace``: the nodes (token, parent, log-probability given the parent) of "
          "each step's tree, which was not verified. Parent 0 is the root.")
      .def_prop_ro("finish_reason", &PyGeneration::finish_reason,
                   "``\"stop\"`` (an end-of-generation token, a stop token or a stop string), ``\"length\"``, "
                   "``\"cancelled\"``, or None while it runs.")
      .def_prop_ro("stats", &PyGeneration::stats, "A copy of the statistics so far.");
}

}  // namespace frspec
