// Several steps in one graph: a loop of commands that the device runs by itself, and the ring in host memory into which
// it puts a record behind each turn, for the host to take out while later turns are running. Backend::begin_loop and
// what follows it are thin covers of this.
#pragma once

#include <array>
#include <cstdint>

#include "backend/backend.h"
#include "cuda/command_list.h"
#include "cuda/runtime.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

// In device memory.
struct LoopState {
  std::uint64_t turns;               // that were ever made
  std::int32_t left;                 // of those that the host wants
  std::uint64_t times[kTimePoints];  // nanoseconds, of the turn that is running
};

class DeviceLoop {
 public:
  static constexpr int kMostTurns = 32;  // places of the ring

  DeviceLoop(Runtime& runtime, CommandList& commands) : runtime_(runtime), commands_(commands) {}
  ~DeviceLoop();
  DeviceLoop(const DeviceLoop&) = delete;
  DeviceLoop& operator=(const DeviceLoop&) = delete;

  // Whether the device has loops. The first time it is tried.
  bool works();
  void begin();
  void note_time(int point);  // between begin and start
  void start(int turns, const void* from, std::size_t bytes);
  void go_on(int turns);
  void collect(void* to_host, std::size_t bytes);
  void end();

  // Whether a time was noted by a loop, and not by a list of commands since.
  bool has_time(int point) const { return timed_[static_cast<std::size_t>(point)]; }
  void forget_time(int point) { timed_[static_cast<std::size_t>(point)] = false; }
  // Of the turn that was collected last.
  double seconds_between(int first_point, int second_point) const;

 private:
  void make_room(std::size_t record_bytes);
  void set_turns(int turns);

  Runtime& runtime_;
  CommandList& commands_;
  LoopState* state_ = nullptr;     // device
  std::uint32_t* stop_ = nullptr;  // pinned host memory: not 0: no further turns are wanted
  std::byte* slots_ = nullptr;     // likewise: (kMostTurns, slot_bytes)
  std::size_t slot_bytes_ = 0;
  std::uint64_t begun_ = 0, collected_ = 0;  // turns
  bool ended_ = false;                       // turns that were begun may never be made
  bool tried_ = false, works_ = false;
  std::array<bool, kTimePoints> timed_ = {};
  std::array<std::uint64_t, kTimePoints> times_ = {};
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
