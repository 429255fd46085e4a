// Engine and Sequence as Python has them, where a sequence is a Generation.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>

#include "base/forks.h"
#include "engine/engine.h"

namespace frspec {

// An engine that may be closed. To be used with the GIL.
class PyEngine {
 public:
  explicit PyEngine(const EngineOptions& options) : engine_(std::make_shared<Engine>(options)) {}

  // The engine, which lives as long as whoever has it. Throws Error where it was closed.
  std::shared_ptr<Engine> open() const;
  std::shared_ptr<Sequence> begin(std::vector<TokenId> prompt, const GenerateOptions& options);
  void cancel();  // the sequences that are still there
  bool is_closed() const { return engine_ == nullptr; }
  // Frees all that it has, as soon as no call is under way. Closing twice does nothing.
  void close();

 private:
  std::shared_ptr<Engine> engine_;
  std::vector<std::weak_ptr<Sequence>> sequences_;  // that were begun, and may have ended
};

// A sequence being written. Any thread may call; they are taken one after the other. The lock is only ever waited for
// without the GIL: who holds it may need the GIL to look for signals.
class PyGeneration {
 public:
  // `cancel`: None, or what has `is_set` (threading.Event), asked now and then whether to end it.
  PyGeneration(const PyEngine& engine, std::shared_ptr<Sequence> sequence, nanobind::object cancel);

  nanobind::list step() { return write(false); }
  nanobind::list run() { return write(true); }
  // One step of all of these together (Engine::step): what each was given, in order; None where it failed, as its next
  // step() says.
  static nanobind::list step_together(const std::vector<PyGeneration*>& generations);
  void cancel() { sequence_->cancel(); }
  // run() returns behind the step that is running, though the text has not ended.
  void hand_over() { hands_over_.store(true); }

  std::optional<std::string> finish_reason();
  nanobind::list logprobs() { return logprobs_from(0); }
  nanobind::list logprobs_from(std::size_t first);
  nanobind::list trace();
  nanobind::list watched();
  void raise_error();
  std::string closing_text();
  Stats stats();

 private:
  using Clock = std::chrono::steady_clock;

  // What `read` says of the sequence, without the GIL.
  template <class Read>
  auto look(Read&& read);
  nanobind::list write(bool all);
  bool python_is_due();
  bool python_stops();

  const PyEngine& engine_;
  OwnedMutex mutex_{"text"};
  std::shared_ptr<Sequence> sequence_;
  nanobind::object cancel_;
  bool raised_ = false;
  std::atomic<bool> hands_over_{false};
  Clock::time_point asked_ = {};
};

void init_generation(nanobind::module_& m);

}  // namespace frspec
