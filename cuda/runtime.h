// What the backend needs of the CUDA runtime, and of its emulation: devices, memory, one stream, graphs.
// Failures are exceptions: InvalidInput where the machine lacks something, OutOfMemory, Error for the rest.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "backend/backend.h"
#include "cuda/command.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::size_t shared_bytes = 0;  // that a block may have
  std::size_t total_bytes = 0;
};

// Commands of one list, kept by the driver.
class Graph {
 public:
  virtual ~Graph() = default;
  // Gives command i of a list other values; is_like the old one.
  virtual void update(std::size_t i, Command& command) = 0;
};

// One device of the machine and a stream of work for it. Used by one thread at a time.
class Runtime {
 public:
  virtual ~Runtime() = default;

  virtual const DeviceInfo& device() const = 0;
  virtual std::size_t free_bytes() = 0;

  // Device memory, aligned to 64 bytes at least; not zeroed.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  // Host memory that the device can read and write at the same address.
  virtual void* allocate_pinned(std::size_t bytes) = 0;
  virtual void release_pinned(void* memory) noexcept = 0;

  // In the order of the stream.
  virtual void fill_zero(void* memory, std::size_t bytes) = 0;
  virtual void copy_in(void* to, const void* from_host, std::size_t bytes) = 0;   // the source may change afterwards
  virtual void copy_out(void* to_host, const void* from, std::size_t bytes) = 0;  // waits for it
  // The same without waiting, into memory of slot `slot`; collect waits for it alone.
  virtual void post(int slot, const void* from, std::size_t bytes) = 0;
  virtual void collect(int slot, void* to_host, std::size_t bytes) = 0;
  virtual void run(std::span<Command> commands) = 0;
  virtual std::unique_ptr<Graph> make_graph(std::span<Command> commands) = 0;
  virtual void run(Graph& graph) = 0;
  // Waits for all that was given to the stream.
  virtual void wait() = 0;
  // Between two noted points, after a wait.
  virtual double seconds_between(int first_point, int second_point) = 0;
};

// Device `index` of the machine.
std::unique_ptr<Runtime> make_runtime(int index);

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
