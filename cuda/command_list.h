// The order of work for the device, as the backend's operations give it. It is handed over only when somebody waits for
// a result: then a list that was seen before goes as one graph, which the driver launches at once, with whatever values
// have changed since. Nobody has to say where a step begins or ends, and what the host decides anew in each step (how
// many tokens were accepted, a random number's count) is just another value.
#pragma once

#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <vector>

#include "cuda/runtime.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

class CommandList {
 public:
  explicit CommandList(Runtime& runtime) : runtime_(runtime) {}

  template <class... Parameters, class... Values>
  void launch(const char* name, void (*kernel)(Parameters...), Grid grid, int threads, std::size_t shared_bytes,
              const Values&... values) {
    add(make_command(name, kernel, grid, threads, shared_bytes, values...));
  }
  void note_time(int point) { add({.name = "time", .point = point}); }

  // Hands everything over; does not wait.
  void flush();
  void wait() {
    flush();
    runtime_.wait();
  }
  // For those who cannot throw: a failure is thrown by the next flush.
  void wait_quietly() noexcept;
  const LaunchCounts& counts() const { return counts_; }

 private:
  struct Known {
    std::vector<Command> commands;  // with the graph's values
    std::unique_ptr<Graph> graph;   // null: seen once
  };

  void add(Command&& command);
  std::vector<Command> take();

  Runtime& runtime_;
  std::vector<Command> commands_;
  std::list<Known> known_;  // the last used first
  std::exception_ptr failure_;
  LaunchCounts counts_;
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
