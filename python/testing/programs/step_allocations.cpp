// Counts what a step allocates (contract 7): step_allocations -m TARGET [-d DRAFTER] [OPTION...] writes the number of
// each step, without the first one, which reads the prompt, and the last, which closes the text. A program, because
// only there operator new is everybody's.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/option_arguments.h"
#include "engine/engine.h"
#include "engine/lab.h"

namespace {

std::atomic<long> allocations{0};

void* counted(std::size_t size, std::size_t alignment) {
  ++allocations;
  void* memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return counted(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

int main(int count, char** arguments) try {
  using namespace frspec;
  Choices choices;
  Arguments options("step_allocations -m TARGET [OPTION...]", "Counts allocations.");
  std::vector<int> prompt;
  options.option("-m", "FILE", choices.engine.target, "the model");
  options.option("-d", "FILE", choices.engine.drafter, "its drafter");
  options.option("--tokens", "ID,...", prompt, "the prompt");
  for (const std::span<const Option> some : {generate_options(), engine_options()}) {
    for (const Option& option : some) {
      if (!option.flags.empty()) add_option(options, choices, option);
    }
  }
  if (!options.parse(std::span(arguments + 1, static_cast<std::size_t>(count - 1)))) return 1;
  choices.settle();
  Engine engine(choices.engine);
  // The largest tree that may come, for the scratch memory of the backend, which grows on its first use.
  const auto nodes = static_cast<std::size_t>(tree_bounds(choices.engine).size);
  std::vector<std::int32_t> parents(nodes, 0);
  parents[0] = -1;
  Lab(engine).time_tree(0, std::vector<TokenId>(nodes, 0), parents);
  const auto sequence = engine.begin(prompt, choices.generate);
  engine.step(*sequence);
  std::vector<long> steps;
  steps.reserve(65536);
  while (sequence->finish_reason() == FinishReason::None) {
    const long before = allocations;
    engine.step(*sequence);
    steps.push_back(allocations - before);
  }
  steps.pop_back();
  std::printf("%lld drafted:", static_cast<long long>(sequence->stats().drafted_steps));
  for (const long step : steps) std::printf(" %ld", step);
  std::printf("\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
