// Engine in Python. Whatever computes releases the GIL.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "base/error.h"
#include "callbacks.h"
#include "engine/lab.h"
#include "gil.h"
#include "option_table.h"
#include "py_engine.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {

std::shared_ptr<Engine> PyEngine::open() const {
  if (engine_ == nullptr) throw Error("this LLM is closed");
  return engine_;
}

std::shared_ptr<Sequence> PyEngine::begin(std::vector<TokenId> prompt, const GenerateOptions& options) {
  const std::shared_ptr<Engine> engine = open();
  std::shared_ptr<Sequence> sequence;
  {
    const WithoutGil released;
    sequence = engine->begin(std::move(prompt), options);
  }
  std::erase_if(sequences_, [](const std::weak_ptr<Sequence>& other) { return other.expired(); });
  sequences_.push_back(sequence);
  return sequence;
}

void PyEngine::cancel() {
  for (const std::weak_ptr<Sequence>& one : sequences_) {
    if (const std::shared_ptr<Sequence> sequence = one.lock()) sequence->cancel();
  }
}

void PyEngine::close() {
  std::shared_ptr<Engine> last = std::exchange(engine_, nullptr);
  const WithoutGil released;
  last.reset();
}

namespace {

using Tokens = std::vector<TokenId>;

void make_engine(PyEngine* self, const std::filesystem::path& target,
                 const std::optional<std::filesystem::path>& drafter, const std::vector<int>& taps, std::size_t states,
                 std::optional<double> spare, const nb::object& progress, const nb::kwargs& keywords) {
  EngineOptions options = read_engine_options(keywords);
  const WithoutGil released;
  options.target = target;
  options.drafter = drafter;
  options.taps = taps;
  options.states = states;
  options.spare = spare;
  options.files.on_piece = [] { check_signals(); };
  options.on_load = [&](std::size_t done, std::size_t total) { call_python(progress, done, total); };
  options.on_warning = [](const std::string& warning) { warn_in_python(warning, 3); };
  new (self) PyEngine(options);
}

std::unique_ptr<PyGeneration> begin(PyEngine& self, Tokens tokens, nb::object cancel, int committed,
                                    const nb::kwargs& keywords) {
  GenerateOptions options = read_options(keywords);
  options.committed = committed;
  return std::make_unique<PyGeneration>(self, self.begin(std::move(tokens), options), std::move(cancel));
}

OutputMatrix<float> forward(const PyEngine& self, const Tokens& tokens) {
  const std::shared_ptr<Engine> engine = self.open();
  Lab::Forward result;
  {
    const WithoutGil released;
    result = Lab(*engine).forward(tokens);
  }
  return to_array<OutputMatrix<float>>(std::move(result.logits),
                                       {tokens.size(), static_cast<std::size_t>(engine->config().vocab)});
}

nb::list to_arrays(std::vector<std::vector<float>>&& taps, std::size_t tokens, const Engine& engine) {
  nb::list arrays;
  for (std::vector<float>& tap : taps) {
    arrays.append(
        to_array<OutputMatrix<float>>(std::move(tap), {tokens, static_cast<std::size_t>(engine.config().dim)}));
  }
  return arrays;
}

nb::list forward_taps(const PyEngine& self, const Tokens& tokens) {
  const std::shared_ptr<Engine> engine = self.open();
  Lab::Forward result;
  {
    const WithoutGil released;
    result = Lab(*engine).forward(tokens, 0);
  }
  return to_arrays(std::move(result.taps), tokens.size(), *engine);
}

nb::tuple forward_states(const PyEngine& self, const Tokens& tokens, int best, std::size_t from) {
  const std::shared_ptr<Engine> engine = self.open();
  if (best < 1) fail("forward_states: found best ", best, ", expected at least 1");
  Lab::Forward result;
  {
    const WithoutGil released;
    result = Lab(*engine).forward(tokens, best, from);
  }
  const auto width = static_cast<std::size_t>(best);
  const std::size_t rows = tokens.size() - from;
  return nb::make_tuple(to_arrays(std::move(result.taps), tokens.size(), *engine),
                        to_array<OutputMatrix<std::int32_t>>(std::move(result.best), {rows, width}),
                        to_array<OutputMatrix<float>>(std::move(result.log_probs), {rows, width}));
}

OutputMatrix<float> forward_tree(const PyEngine& self, const Tokens& prefix, const Tokens& tokens,
                                 const std::vector<std::int32_t>& parents) {
  const std::shared_ptr<Engine> engine = self.open();
  std::vector<float> logits;
  {
    const WithoutGil released;
    logits = Lab(*engine).forward_tree(prefix, tokens, parents);
  }
  return to_array<OutputMatrix<float>>(std::move(logits),
                                       {tokens.size(), static_cast<std::size_t>(engine->config().vocab)});
}

// What `read` says of an engine that is not closed.
template <class Read>
auto of_engine(Read read) {
  return [read](const PyEngine& self) { return read(*self.open()); };
}

}  // namespace

void init_engine(nb::module_& m) {
  init_generation(m);
  nb::class_<PyEngine>(m, "Engine",
                       "A target, perhaps its drafter, and their caches. Calls on one engine are taken one after the "
                       "other; engines are independent of each other.")
      .def("__init__", &make_engine, "target"_a, "drafter"_a = nb::none(), nb::kw_only(), "taps"_a = std::vector<int>{},
           "states"_a = 0, "spare"_a = nb::none(), "progress"_a = nb::none(), "options"_a,
           nb::sig("def __init__(self, target: str | os.PathLike[str], drafter: str | os.PathLike[str] | None = None, "
                   "*, taps: Sequence[int] = (), states: int = 0, spare: float | None = None, "
                   "progress: collections.abc.Callable[[int, int], object] | None = None, **options: Any) -> None"),
           "``options``: see ``frspec_cpp.EngineOptions``. ``spare``: contexts that the caches have room for beside "
           "one; "
           "None: by the memory that is free. "
           "``progress`` is called with the bytes of weights that are ready and those of all. ``states``: that many "
           "states that the drafter's head meets are noted (``take_states``).")
      .def(
          "take_states",
          [](const PyEngine& self) {
            const std::shared_ptr<Engine> engine = self.open();
            std::pair<std::vector<float>, std::size_t> taken;
            {
              const WithoutGil released;
              taken = Lab(*engine).take_states();
            }
            auto& [states, dim] = taken;
            const std::size_t count = states.size() / std::max<std::size_t>(1, dim);
            return to_array<OutputMatrix<float>>(std::move(states), {count, dim});
          },
          "The states that were noted since the last call: (count, hidden size) float32.")
      .def(
          "save_ranks",
          [](const PyEngine& self) {
            const std::shared_ptr<Engine> engine = self.open();
            const WithoutGil released;
            engine->save_ranks();
          },
          "Brings what was counted (``adapt``) to its file.")
      .def("cancel", &PyEngine::cancel, "Ends all texts that were begun and have not ended. From any thread.")
      .def("close", &PyEngine::close,
           "Frees all that it has, as soon as no call is under way; whatever is asked of it afterwards is a "
           "RuntimeError.")
      .def_prop_ro("is_closed", &PyEngine::is_closed, "Whether it was closed.")
      .def_prop_ro("works_here", of_engine([](const Engine& engine) { return engine.works_here(); }),
                   "Whether this thread is inside one of its calls: a logits processor is.")
      .def_prop_ro(
          "head_costs", of_engine([](const Engine& engine) {
            nb::list costs;
            if (engine.tuner() == nullptr) return costs;
            for (const Tuner::Arm& arm : engine.tuner()->arms()) {
              costs.append(nb::make_tuple(arm.head, arm.root_seconds, arm.row_seconds));
            }
            return costs;
          }),
          nb::sig("def head_costs(self) -> list[tuple[str, float, float]]"),
          "With head \"auto\": the policies, and the seconds that each took for one state and for each state more.")
      .def(
          "set_head",
          [](const PyEngine& self, const std::string& head) {
            const std::shared_ptr<Engine> engine = self.open();
            const WithoutGil released;
            engine->set_head(head);
          },
          "head"_a, "Another head policy for the drafter.")
      .def("begin", &begin, "tokens"_a, "cancel"_a = nb::none(), "committed"_a = 0, "options"_a, nb::keep_alive<0, 1>(),
           nb::sig("def begin(self, tokens: Sequence[int], cancel: object = None, committed: int = 0, "
                   "**options: object) -> Generation"),
           "Begins a text after a prompt of at least one token. "
           "``cancel``, where it is not None, is asked now and then whether it ``is_set``, and ends the text. So many "
           "as ``committed`` of the last tokens are the text's own already. The "
           "options are those of ``frspec_cpp.options.Options``, in the form that ``native`` gives them.")
      .def("forward", &forward, "tokens"_a, "Logits after each token: (len(tokens), vocab_size) float32.")
      .def("forward_taps", &forward_taps, "tokens"_a,
           nb::sig("def forward_taps(self, tokens: Sequence[int]) -> "
                   "list[Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]"),
           "The inputs of the layers named by ``taps``: for each (len(tokens), dim) float32.")
      .def(
          "forward_states", &forward_states, "tokens"_a, "best"_a, "first"_a = 0,
          nb::sig("def forward_states(self, tokens: Sequence[int], best: int, first: int = 0) -> "
                  "tuple[list[Annotated[NDArray[numpy.float32], dict(shape=(None, None))]], "
                  "Annotated[NDArray[numpy.int32], dict(shape=(None, None))], "
                  "Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]"),
          "One pass that keeps no logits: the inputs of the layers named by ``taps``, each (len(tokens), dim), and the "
          "``best`` most probable tokens after each token from number ``first`` on, best first, with their "
          "log-probabilities: (len(tokens) - first, best) int32 and float32.")
      .def("forward_tree", &forward_tree, "prefix"_a, "tokens"_a, "parents"_a,
           "Logits after each node of a tree behind ``prefix``: (len(tokens), vocab_size) float32.\n\n"
           "``parents[0]`` is -1; every other parent is an earlier node.")
      .def_prop_ro("tokenizer", of_engine([](const Engine& engine) { return engine.tokenizer(); }),
                   "The target's tokenizer.")
      .def_prop_ro("n_ctx", of_engine([](const Engine& engine) { return engine.context(); }),
                   "Tokens that prompt and text may have together.")
      .def_prop_ro("vocab_size", of_engine([](const Engine& engine) { return engine.config().vocab; }),
                   "Tokens of the vocabulary.")
      .def_prop_ro("n_parallel", of_engine([](const Engine& engine) { return engine.places().count(); }),
                   "Texts that can be written at once.")
      .def_prop_ro("displaced", of_engine([](const Engine& engine) { return engine.places().displaced(); }),
                   "How often a text had to make room for others so far, and was read again later.")
      .def_prop_ro(
          "pages", of_engine([](const Engine& engine) {
            const Places::Pages pages = engine.places().pages();
            return nb::make_tuple(pages.all, pages.held, pages.kept);
          }),
          nb::sig("def pages(self) -> tuple[int, int, int]"),
          "Pages of 64 tokens in the target's cache behind the last step: all, those that texts hold, and those that "
          "are kept for texts to come.")
      .def_prop_ro("ngram", of_engine([](const Engine& engine) { return engine.ngram(); }),
                   "Tokens that are looked up in a text, at most; 0: none are.")
      .def_prop_ro("device", of_engine([](const Engine& engine) { return engine.device(); }),
                   "The backend in words: ``\"cpu (avx2, 8 threads)\"``.")
      .def_prop_ro("architecture",
                   of_engine([](const Engine& engine) { return std::string(engine.config().style.name); }),
                   "``general.architecture`` of the target.")
      .def_prop_ro(
          "launch_counts", of_engine([](Engine& engine) {
            LaunchCounts counts;
            {
              const WithoutGil released;
              counts = Lab(engine).launch_counts();
            }
            nb::dict found;
            found["commands"] = counts.commands;
            found["launches"] = counts.launches;
            found["graph_launches"] = counts.graph_launches;
            found["graphs_made"] = counts.graphs_made;
            found["values_changed"] = counts.values_changed;
            return found;
          }),
          nb::sig("def launch_counts(self) -> dict[str, int]"),
          "What a GPU was given so far: ``commands`` by the operations; ``launches`` of single ones, "
          "``graph_launches`` of many at once; ``graphs_made``; and ``values_changed`` in them. All 0 on the CPU.")
      .def_prop_ro(
          "memory_plan", of_engine([](const Engine& engine) -> nb::object {
            const std::optional<MemoryPlan>& plan = engine.memory_plan();
            if (!plan) return nb::none();
            nb::dict found;
            found["target_weights"] = plan->target_weights;
            found["drafter_weights"] = plan->drafter_weights;
            found["head_rows"] = plan->head_rows;
            found["caches"] = plan->caches();
            found["working"] = plan->working;
            found["context"] = plan->context;
            found["total"] = plan->bytes();
            found["free"] = plan->free;
            return found;
          }),
          nb::sig("def memory_plan(self) -> dict[str, int] | None"),
          "Bytes of the device's memory that it was expected to take, and what was free before (``context``: tokens); "
          "None where that is the host's.")
      .def_prop_ro("has_drafter", of_engine([](const Engine& engine) { return engine.tuner() != nullptr; }),
                   "Whether there is a drafter.");
}

}  // namespace frspec
