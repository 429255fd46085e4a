// Engine, Generation and Stats in Python. Whatever computes releases the GIL; while a text is written it is taken now
// and then to let Python's signal handlers run, so that Ctrl-C stops a long prompt and a long text, too.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
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
#include "callbacks.h"
#include "engine/engine.h"
#include "text_options.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Tokens = std::vector<TokenId>;

nb::list to_list(const std::vector<GeneratedToken>& tokens) {
  nb::list list;
  for (const GeneratedToken& token : tokens) list.append(nb::make_tuple(token.id, token.drafted, token.text));
  return list;
}

// A text being written, as Python sees it. Any thread may call; they are taken one after the other. The lock is only
// ever waited for without the GIL: who holds it may need the GIL to look for signals.
class PyGeneration {
 public:
  PyGeneration(Engine& engine, Tokens prompt, const GenerateOptions& options)
      : text_(engine.begin(std::move(prompt), options)) {
    text_->on_progress([this] { return !signal_raised(); });
  }

  nb::list step() { return write(false); }
  nb::list run() { return write(true); }

  std::optional<std::string> finish_reason() {
    const nb::gil_scoped_release release;
    const std::scoped_lock lock(mutex_);
    if (text_->finish_reason() == FinishReason::None) return std::nullopt;
    return finish_reason_name(text_->finish_reason());
  }

  // Of every token so far: its log-probability, and the best tokens with theirs.
  nb::list logprobs() {
    std::vector<TokenLogprobs> found;
    {
      const nb::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      found.assign(text_->logprobs().begin(), text_->logprobs().end());
    }
    nb::list list;
    for (const TokenLogprobs& token : found) {
      nb::list best;
      for (const auto& [id, value] : token.best) best.append(nb::make_tuple(id, value));
      list.append(nb::make_tuple(token.chosen, best));
    }
    return list;
  }

  // Of every step so far: the fields of frspec_cpp.Step.
  nb::list trace() {
    std::vector<StepTrace> found;
    {
      const nb::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      found.assign(text_->trace().begin(), text_->trace().end());
    }
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
  nb::list watched() {
    nb::list list;
    const std::scoped_lock lock(mutex_);
    for (const StepTrace& step : text_->trace()) {
      nb::list nodes;
      for (const auto& node : step.watched) nodes.append(nb::make_tuple(node.token, node.parent, node.score));
      list.append(nodes);
    }
    return list;
  }

  std::string closing_text() {
    const nb::gil_scoped_release release;
    const std::scoped_lock lock(mutex_);
    return text_->closing_text();
  }

  Stats stats() {
    const nb::gil_scoped_release release;
    const std::scoped_lock lock(mutex_);
    return text_->stats();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kSignalPeriod{20};

  // One step, or all that are left.
  nb::list write(bool all) {
    std::vector<GeneratedToken> tokens;
    {
      const nb::gil_scoped_release release;
      const std::scoped_lock lock(mutex_);
      raised_ = false;
      do {
        const auto fresh = text_->step();
        tokens.insert(tokens.end(), fresh.begin(), fresh.end());
      } while (all && text_->finish_reason() == FinishReason::None && !raised_ &&
               !(signals_are_due() && signal_raised()));
    }
    // The exception of the signal handler was left pending in this thread.
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    return to_list(tokens);
  }

  // Waiting for the GIL may take some milliseconds where other threads compute in Python: not after every step.
  bool signals_are_due() {
    const Clock::time_point now = Clock::now();
    if (now - checked_ < kSignalPeriod) return false;
    checked_ = now;
    return true;
  }

  bool signal_raised() {
    const nb::gil_scoped_acquire gil;
    raised_ = PyErr_CheckSignals() != 0;
    return raised_;
  }

  std::mutex mutex_;
  std::unique_ptr<Generation> text_;
  bool raised_ = false;
  Clock::time_point checked_ = Clock::now();
};

void make_engine(Engine* self, const std::filesystem::path& target, const std::optional<std::filesystem::path>& drafter,
                 const std::optional<std::filesystem::path>& ranks, const std::optional<std::filesystem::path>& sketch,
                 const std::optional<std::filesystem::path>& adapt, const std::string& head,
                 const std::string& translate, int ngram, const std::string& tree, std::optional<int> tree_depth,
                 std::optional<int> tree_branch, std::optional<int> tree_size, int n_ctx, int n_batch, int n_threads,
                 const std::string& cache_type, const std::string& device, int n_gpu_layers, bool head_on_host,
                 const std::vector<int>& taps, std::size_t states, const nb::object& progress) {
  const nb::gil_scoped_release release;
  EngineOptions options;
  options.target = target;
  options.drafter = drafter;
  options.ranks = ranks;
  options.sketch = sketch;
  options.adapt = adapt;
  if (states > 0) options.states = std::make_shared<StateRecord>(StateRecord{states, 0, {}});
  options.head = head;
  options.translate = translate;
  options.ngram = ngram;
  options.tree = TreeChoice{tree, tree_depth, tree_branch, tree_size}.shape();
  options.context = n_ctx;
  options.batch = n_batch;
  options.backend = {device, n_threads};
  options.gpu_layers = n_gpu_layers;
  options.head_on_host = head_on_host;
  options.kv_type = parse_kv_type(cache_type);
  options.taps = taps;
  options.on_load = [&](std::size_t done, std::size_t total) { call_python(progress, done, total); };
  new (self) Engine(options);
}

std::unique_ptr<PyGeneration> begin(Engine& self, Tokens tokens, const nb::kwargs& keywords) {
  const GenerateOptions options = read_options(keywords);
  const nb::gil_scoped_release release;
  return std::make_unique<PyGeneration>(self, std::move(tokens), options);
}

OutputMatrix<float> forward(Engine& self, const Tokens& tokens) {
  Engine::Forward result;
  {
    const nb::gil_scoped_release release;
    result = self.forward(tokens);
  }
  return to_array<OutputMatrix<float>>(std::move(result.logits),
                                       {tokens.size(), static_cast<std::size_t>(self.config().vocab)});
}

nb::list forward_taps(Engine& self, const Tokens& tokens) {
  Engine::Forward result;
  {
    const nb::gil_scoped_release release;
    result = self.forward(tokens);
  }
  nb::list taps;
  for (std::vector<float>& tap : result.taps) {
    taps.append(
        to_array<OutputMatrix<float>>(std::move(tap), {tokens.size(), static_cast<std::size_t>(self.config().dim)}));
  }
  return taps;
}

OutputMatrix<float> forward_tree(Engine& self, const Tokens& prefix, const Tokens& tokens,
                                 const std::vector<std::int32_t>& parents) {
  std::vector<float> logits;
  {
    const nb::gil_scoped_release release;
    logits = self.forward_tree(prefix, tokens, parents);
  }
  return to_array<OutputMatrix<float>>(std::move(logits),
                                       {tokens.size(), static_cast<std::size_t>(self.config().vocab)});
}

void init_stats(nb::module_& m) {
  nb::class_<Stats>(m, "Stats", "What a text has cost so far, and what drafting gained.")
      .def_ro("prompt_tokens", &Stats::prompt_tokens, "Tokens of the prompt.")
      .def_ro("generated_tokens", &Stats::generated_tokens, "Tokens handed out.")
      .def_ro("steps", &Stats::steps, "Passes of the target after the prompt.")
      .def_ro("drafted_steps", &Stats::drafted_steps, "Those of them that verified drafts.")
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

void init_generation(nb::module_& m) {
  nb::class_<PyGeneration>(m, "Generation", "A text being written, made by ``Engine.begin``.")
      .def("step", &PyGeneration::step, nb::sig("def step(self) -> list[tuple[int, bool, str]]"),
           "The tokens of one pass of the target: each with whether a draft had foreseen it and the text that can be "
           "shown with it; none where the text has ended. The first call reads the prompt.\n\n"
           "Raises:\n    RuntimeError: An earlier step was interrupted, or the engine began another text since.")
      .def("run", &PyGeneration::run, nb::sig("def run(self) -> list[tuple[int, bool, str]]"),
           "All steps that are left.\n\nRaises:\n    RuntimeError: An earlier step was interrupted, or the engine "
           "began another text since.")
      .def_prop_ro("closing_text", &PyGeneration::closing_text,
                   "What follows the last token's text once it has ended: what had been held back until then.")
      .def_prop_ro("logprobs", &PyGeneration::logprobs,
                   nb::sig("def logprobs(self) -> list[tuple[float, list[tuple[int, float]]]]"),
                   "Log-probability of every token so far, and the best tokens with theirs, where asked for.")
      .def_prop_ro("trace", &PyGeneration::trace, nb::sig("def trace(self) -> list[dict[str, typing.Any]]"),
                   "Every step so far, where asked for: the fields of ``frspec_cpp.Step``.")
      .def_prop_ro(
          "watched", &PyGeneration::watched, nb::sig("def watched(self) -> list[list[tuple[int, int, float]]]"),
          "With ``draft=\"watch\"`` and ``trace``: the nodes (token, parent, log-probability given the parent) of "
          "each step's tree, which was not verified. Parent 0 is the root.")
      .def_prop_ro("finish_reason", &PyGeneration::finish_reason,
                   "``\"stop\"`` (an end-of-generation token, a stop token or a stop string), ``\"length\"``, or None "
                   "while it runs.")
      .def_prop_ro("stats", &PyGeneration::stats, "A copy of the statistics so far.");
}

}  // namespace

void init_engine(nb::module_& m) {
  init_stats(m);
  init_generation(m);
  nb::class_<Engine>(m, "Engine",
                     "A target, perhaps its drafter, and their caches. Calls on one engine are taken one after the "
                     "other; engines are independent of each other.")
      .def("__init__", &make_engine, "target"_a, "drafter"_a = nb::none(), "ranks"_a = nb::none(),
           "sketch"_a = nb::none(), "adapt"_a = nb::none(), "head"_a = "full", "translate"_a = "auto", "ngram"_a = 0,
           "tree"_a = "auto", "tree_depth"_a = nb::none(), "tree_branch"_a = nb::none(), "tree_size"_a = nb::none(),
           "n_ctx"_a = 0, "n_batch"_a = EngineOptions{}.batch, "n_threads"_a = 0, "cache_type"_a = "f16",
           "device"_a = default_device(), "n_gpu_layers"_a = -1, "head_on_host"_a = false,
           "taps"_a = std::vector<int>{}, "states"_a = 0, "progress"_a = nb::none(),
           nb::sig("def __init__(self, target: str | os.PathLike[str], drafter: str | os.PathLike[str] | None = None, "
                   "ranks: str | os.PathLike[str] | None = None, sketch: str | os.PathLike[str] | None = None, "
                   "adapt: str | os.PathLike[str] | None = None, head: str = 'full', translate: str = 'auto', ngram: "
                   "int = 0, tree: str = 'auto', tree_depth: int | None = None, "
                   "tree_branch: int | None = None, tree_size: int | None = None, n_ctx: int = 0, n_batch: int = 512, "
                   "n_threads: int = 0, cache_type: str = 'f16', device: str = 'cpu', n_gpu_layers: int = -1, "
                   "head_on_host: bool = False, taps: Sequence[int] = (), "
                   "states: int = 0, "
                   "progress: collections.abc.Callable[[int, int], object] | None = None) -> None"),
           "``progress`` is called with the bytes of weights that are ready and those of all. ``states``: that many "
           "states that the drafter's head meets are noted (``take_states``).")
      .def(
          "take_states",
          [](Engine& self) {
            const StateRecord record = self.take_states();
            const std::size_t dim = std::max<std::size_t>(1, record.dim);
            return to_array<OutputMatrix<float>>(std::vector<float>(record.states),
                                                 {record.states.size() / dim, record.dim});
          },
          "The states that were noted since the last call: (count, hidden size) float32.")
      .def("save_ranks", &Engine::save_ranks, nb::call_guard<nb::gil_scoped_release>(),
           "Brings what was counted (``adapt``) to its file.")
      .def_prop_ro(
          "head_costs",
          [](const Engine& self) {
            nb::list costs;
            if (self.tuner() == nullptr) return costs;
            for (const Tuner::Arm& arm : self.tuner()->arms()) {
              costs.append(nb::make_tuple(arm.head, arm.root_seconds, arm.row_seconds));
            }
            return costs;
          },
          nb::sig("def head_costs(self) -> list[tuple[str, float, float]]"),
          "With head \"auto\": the policies, and the seconds that each took for one state and for each state more.")
      .def(
          "set_head",
          [](Engine& self, const std::string& head) {
            const nb::gil_scoped_release release;
            self.set_head(head);
          },
          "head"_a, "Another head policy for the drafter. A running generation can go on no more.")
      .def("begin", &begin, "tokens"_a, "options"_a, nb::keep_alive<0, 1>(),
           nb::sig("def begin(self, tokens: Sequence[int], **options: object) -> Generation"),
           "Begins a text after a prompt of at least one token; one that was running before can go on no more. "
           "The options are those of ``frspec_cpp.options.Options``, in the form that ``native`` gives them.")
      .def("forward", &forward, "tokens"_a, "Logits after each token: (len(tokens), vocab_size) float32.")
      .def("forward_taps", &forward_taps, "tokens"_a,
           nb::sig("def forward_taps(self, tokens: Sequence[int]) -> "
                   "list[Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]"),
           "The inputs of the layers named by ``taps``: for each (len(tokens), dim) float32.")
      .def("forward_tree", &forward_tree, "prefix"_a, "tokens"_a, "parents"_a,
           "Logits after each node of a tree behind ``prefix``: (len(tokens), vocab_size) float32.\n\n"
           "``parents[0]`` is -1; every other parent is an earlier node.")
      .def_prop_ro("tokenizer", &Engine::shared_tokenizer, "The target's tokenizer.")
      .def_prop_ro("n_ctx", &Engine::context, "Tokens that prompt and text may have together.")
      .def_prop_ro(
          "vocab_size", [](const Engine& self) { return self.config().vocab; }, "Tokens of the vocabulary.")
      .def_prop_ro("device", &Engine::device, "The backend in words: ``\"cpu (avx2, 8 threads)\"``.")
      .def_prop_ro(
          "architecture", [](const Engine& self) { return self.config().architecture; },
          "``general.architecture`` of the target.")
      .def_prop_ro(
          "launch_counts",
          [](Engine& self) {
            const LaunchCounts counts = self.backend().launch_counts();
            nb::dict found;
            found["commands"] = counts.commands;
            found["launches"] = counts.launches;
            found["graph_launches"] = counts.graph_launches;
            found["loop_launches"] = counts.loop_launches;
            found["graphs_made"] = counts.graphs_made;
            found["values_changed"] = counts.values_changed;
            return found;
          },
          nb::sig("def launch_counts(self) -> dict[str, int]"),
          "What a GPU was given so far: ``commands`` by the operations; ``launches`` of single ones, "
          "``graph_launches`` of many at once, ``loop_launches`` of those, of several steps; ``graphs_made``; and "
          "``values_changed`` in them. All 0 on the CPU.")
      .def_prop_ro(
          "memory_plan",
          [](const Engine& self) -> nb::object {
            const std::optional<MemoryPlan>& plan = self.memory_plan();
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
          },
          nb::sig("def memory_plan(self) -> dict[str, int] | None"),
          "Bytes of the device's memory that it was expected to take, and what was free before (``context``: tokens); "
          "None where that is the host's.")
      .def_prop_ro("has_drafter", &Engine::has_drafter, "Whether there is a drafter.");
}

}  // namespace frspec
