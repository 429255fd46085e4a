// Recorded launches and the graphs that are made of them.
#include "cuda/command_list.h"

#include <algorithm>
#include <utility>

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr std::size_t kMostKnown = 64;      // lists
constexpr std::size_t kMostPending = 4096;  // commands that wait: a list as long as this is no step
constexpr std::size_t kShort = 3;           // commands that are not worth a graph

bool are_alike(const std::vector<Command>& a, const std::vector<Command>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Command& x, const Command& y) { return x.is_like(y); });
}

}  // namespace

void CommandList::add(Command&& command) {
  ++counts_.commands;
  commands_.push_back(std::move(command));
  if (commands_.size() >= kMostPending) flush();
}

void CommandList::wait_quietly() noexcept {
  try {
    wait();
  } catch (...) {
    failure_ = std::current_exception();
  }
}

// Whatever happens, these commands are gone.
std::vector<Command> CommandList::take() {
  std::vector<Command> commands;
  commands.reserve(commands_.size());
  commands.swap(commands_);
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
  return commands;
}

void CommandList::flush() {
  if (commands_.empty() && failure_ == nullptr) return;
  std::vector<Command> commands = take();
  const auto run_singly = [&] {
    counts_.launches += static_cast<std::int64_t>(commands.size());
    runtime_.run(commands);
  };
  if (commands.size() <= kShort) return run_singly();
  const auto found = std::find_if(known_.begin(), known_.end(),
                                  [&](const Known& known) { return are_alike(known.commands, commands); });
  if (found == known_.end()) {
    run_singly();
    known_.push_front({std::move(commands), nullptr});
    if (known_.size() > kMostKnown) {
      runtime_.wait();  // its graph may be running
      known_.pop_back();
    }
    return;
  }
  known_.splice(known_.begin(), known_, found);
  Known& known = known_.front();
  if (known.graph == nullptr) {
    known.graph = runtime_.make_graph(commands);
    known.commands = std::move(commands);
    ++counts_.graphs_made;
  } else {
    for (std::size_t i = 0; i < commands.size(); ++i) {
      if (commands[i] == known.commands[i]) continue;
      known.graph->update(i, commands[i]);
      known.commands[i] = std::move(commands[i]);
      ++counts_.values_changed;
    }
  }
  ++counts_.graph_launches;
  runtime_.run(*known.graph);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
