// What a device can measure and count, for those who time it or plan its memory; no token depends on any of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/tensor.h"

namespace frspec {

struct Rows;
struct TreeView;

// The arithmetic in which a weight type is multiplied.
enum class Arithmetic : std::uint8_t { Int8, Bf16, F32, F16 };
inline constexpr int kArithmetics = 4;

inline constexpr int kTimePoints = 64;

// Bytes of a device's memory. All 0: it is the host's own.
struct DeviceMemory {
  std::size_t free = 0;
  std::size_t total = 0;
  std::size_t reserved = 0;  // of what is free: that the backend itself will want
};

// How a device that is given its work as lists of commands got it so far. All 0: it is called operation by operation.
struct LaunchCounts {
  std::int64_t commands = 0;        // that operations gave
  std::int64_t launches = 0;        // of single commands
  std::int64_t graph_launches = 0;  // of lists as a whole
  std::int64_t graphs_made = 0;
  std::int64_t values_changed = 0;  // commands in graphs that got other values
};

class Instruments {
 public:
  virtual ~Instruments() = default;

  // Notes the time when all that was called before is done, as number `point`, below kTimePoints.
  virtual void note_time(int point) = 0;
  // Between two noted times; only after a download or a collected post that was called behind both.
  virtual double seconds_between(int first_point, int second_point) = 0;

  virtual DeviceMemory memory() = 0;
  virtual LaunchCounts launch_counts() const = 0;

  virtual Arithmetic arithmetic(DType type) const = 0;
  // The two ceilings, measured: reads the given weights once, by all threads (bytes per second); and multiply-adds per
  // second in each arithmetic (kArithmetics of them; 0 where no weight is multiplied so), which takes about a second.
  virtual double measure_reading(std::span<const Weight* const> weights) = 0;
  virtual void measure_arithmetic(double* macs_per_second) = 0;

  // For timing with models that agree on nothing: replaces `sampled` so that, independently at every node, the token is
  // that of the node's best child with the given probability, else none of its children's. Keyed by seed and position.
  virtual void pretend_acceptance(std::int32_t* sampled, const TreeView& tree, const Rows& rows, float probability,
                                  std::uint64_t seed) = 0;
};

}  // namespace frspec
