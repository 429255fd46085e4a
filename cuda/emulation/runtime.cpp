// The CUDA runtime of the host emulation.
#include "cuda/runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "cuda/emulation/block.h"
#include "cuda/emulation/memory.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

struct Call {
  Command* command;
  void** arguments;
};

class EmulatedGraph final : public Graph {
 public:
  explicit EmulatedGraph(std::span<Command> all) : commands(all.begin(), all.end()) {}
  void update(std::size_t i, Command& command) override { commands[i] = command; }

  std::vector<Command> commands;
};

class EmulatedRuntime final : public Runtime {
 public:
  EmulatedRuntime() {
    device_ = {.name = "emulated on the host",
               .major = 9,
               .minor = 0,
               .multiprocessors = 4,
               .shared_bytes = std::size_t{227} << 10,
               .total_bytes = emulation::device_capacity()};
  }

  const DeviceInfo& device() const override { return device_; }
  std::size_t free_bytes() override {
    return device_.total_bytes - std::min(device_.total_bytes, emulation::allocated_device());
  }

  void* allocate(std::size_t bytes) override {
    void* memory = emulation::allocate_device(bytes);
    if (memory == nullptr) {
      throw OutOfMemory(concat("CUDA device (emulated): found ", free_bytes(), " bytes free, expected ", bytes));
    }
    return memory;
  }
  void release(void* memory) noexcept override { emulation::release_device(memory); }
  void* allocate_pinned(std::size_t bytes) override {
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == nullptr) throw OutOfMemory(concat("pinned host memory: cannot allocate ", bytes, " bytes"));
    return memory;
  }
  void release_pinned(void* memory) noexcept override { std::free(memory); }

  void fill_zero(void* memory, std::size_t bytes) override {
    const emulation::DeviceAccess access;
    std::memset(memory, 0, bytes);
  }
  void copy_in(void* to, const void* from_host, std::size_t bytes) override {
    const emulation::DeviceAccess access;
    std::memcpy(to, from_host, bytes);
  }
  void copy_out(void* to_host, const void* from, std::size_t bytes) override {
    const emulation::DeviceAccess access;
    std::memcpy(to_host, from, bytes);
  }

  void post(int slot, const void* from, std::size_t bytes) override {
    const emulation::DeviceAccess access;
    const auto* begin = static_cast<const std::byte*>(from);
    posts_[slot].assign(begin, begin + bytes);
  }
  void collect(int slot, void* to_host, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to_host, posts_[slot].data(), bytes);
  }

  void run(std::span<Command> commands) override {
    const emulation::DeviceAccess access;
    for (Command& command : commands) {
      if (command.kernel == nullptr) {
        points_[command.point] = std::chrono::steady_clock::now();
        continue;
      }
      void* arguments[Arguments::kMost];
      command.arguments.pointers(arguments);
      Call call{&command, arguments};
      block_.run(
          command.name, {command.grid.x, command.grid.y, command.grid.z}, command.threads, command.shared_bytes,
          [](void* context) {
            const Call& c = *static_cast<Call*>(context);
            c.command->call(c.command->kernel, c.arguments);
          },
          &call);
      emulation::check_allocations(command.name);
    }
  }
  std::unique_ptr<Graph> make_graph(std::span<Command> commands) override {
    return std::make_unique<EmulatedGraph>(commands);
  }
  void run(Graph& graph) override { run(static_cast<EmulatedGraph&>(graph).commands); }
  void wait() override {}
  double seconds_between(int first_point, int second_point) override {
    return std::chrono::duration<double>(points_[second_point] - points_[first_point]).count();
  }

 private:
  DeviceInfo device_;
  emulation::Block block_;
  std::chrono::steady_clock::time_point points_[kTimePoints];
  std::vector<std::byte> posts_[kPosts];
};

}  // namespace

std::unique_ptr<Runtime> make_runtime(int index) {
  if (index != 0) fail("device: found 'cuda-emulated:", index, "', expected 0, the only one there is");
  return std::make_unique<EmulatedRuntime>();
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
