// Loops of commands, and the ring that their records go through.
//
// Memory access: finish_turn reads the record and the times (some hundred bytes) and writes them over the bus in
// neighbouring words, then the turn's number behind a fence; it reads one word of host memory. note_clock writes 8
// bytes.
#include "cuda/loop.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "cuda/device/block.cuh"
#include "cuda/device/loop.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

namespace {

constexpr int kThreads = 64;

// A place of the ring: the number of turns that were made when it was written, the times, and from a multiple of 64
// bytes on the record.
constexpr std::size_t kTimesAt = sizeof(std::uint64_t);
constexpr std::size_t kRecordAt = (kTimesAt + kTimePoints * sizeof(std::uint64_t) + 63) / 64 * 64;

struct Ring {
  LoopState* state;
  std::byte* slots;
  std::int64_t slot_bytes;
  const std::uint32_t* stop;
};

__global__ void begin_turns(LoopState* state, int turns) {
  if (thread() == 0) state->left = turns;
}

__global__ void note_clock(LoopState* state, int point) {
  if (thread() == 0) state->times[point] = nanoseconds();
}

__global__ void finish_turn(LoopHandle loop, Ring ring, const std::uint32_t* from, int words) {
  const std::uint64_t turns = ring.state->turns;
  std::byte* slot = ring.slots + static_cast<std::int64_t>(turns % DeviceLoop::kMostTurns) * ring.slot_bytes;
  auto* times = reinterpret_cast<std::uint64_t*>(slot + kTimesAt);
  for (int i = thread(); i < kTimePoints; i += threads()) times[i] = ring.state->times[i];
  auto* record = reinterpret_cast<std::uint32_t*>(slot + kRecordAt);
  for (int i = thread(); i < words; i += threads()) record[i] = from[i];
  system_fence();  // whoever sees the number sees all of it
  block_sync();
  if (thread() != 0) return;
  const std::int32_t left = ring.state->left - 1;
  ring.state->turns = turns + 1;
  ring.state->left = left;
  system_fence();
  *reinterpret_cast<volatile std::uint64_t*>(slot) = turns + 1;
  set_another_turn(loop, left > 0 && *static_cast<const volatile std::uint32_t*>(ring.stop) == 0);
}

}  // namespace

DeviceLoop::~DeviceLoop() {
  if (state_ == nullptr) return;
  end();
  commands_.wait_quietly();
  runtime_.release(state_);
  runtime_.release_pinned(stop_);
  if (slots_ != nullptr) runtime_.release_pinned(slots_);
}

void DeviceLoop::make_room(std::size_t record_bytes) {
  const std::size_t bytes = (kRecordAt + record_bytes + 63) / 64 * 64;
  if (bytes <= slot_bytes_) return;
  if (slots_ != nullptr) {
    runtime_.wait();  // the last turn may not quite have left it
    runtime_.release_pinned(slots_);
    slots_ = nullptr;
    slot_bytes_ = 0;
  }
  slots_ = static_cast<std::byte*>(runtime_.allocate_pinned(kMostTurns * bytes));
  std::memset(slots_, 0, kMostTurns * bytes);
  slot_bytes_ = bytes;
}

void DeviceLoop::begin() {
  if (state_ == nullptr) {
    state_ = static_cast<LoopState*>(runtime_.allocate(sizeof(LoopState)));
    runtime_.fill_zero(state_, sizeof(LoopState));
  }
  if (stop_ == nullptr) {
    stop_ = static_cast<std::uint32_t*>(runtime_.allocate_pinned(sizeof *stop_));
    *stop_ = 0;
  }
  if (ended_) {  // nobody knows how many turns were made
    commands_.wait();
    *stop_ = 0;
    runtime_.copy_out(&begun_, &state_->turns, sizeof begun_);
    collected_ = begun_;
    ended_ = false;
  }
  if (collected_ != begun_) throw Error("CUDA: a loop begins while another one is running");
  commands_.begin_loop();
}

void DeviceLoop::note_time(int point) {
  commands_.launch("note_clock", note_clock, {}, kWarp, 0, state_, point);
  timed_[static_cast<std::size_t>(point)] = true;
}

void DeviceLoop::set_turns(int turns) {
  if (turns < 1 || begun_ + static_cast<std::uint64_t>(turns) > collected_ + kMostTurns) {
    throw Error(concat("CUDA: a loop of ", turns, " more turns, expected 1 to ", collected_ + kMostTurns - begun_));
  }
  commands_.launch("begin_turns", begin_turns, {}, kWarp, 0, state_, turns);
  begun_ += static_cast<std::uint64_t>(turns);
}

void DeviceLoop::start(int turns, const void* from, std::size_t bytes) {
  make_room(bytes);
  commands_.launch("finish_turn", finish_turn, {}, kThreads, 0, LoopHandle{0},
                   Ring{state_, slots_, static_cast<std::int64_t>(slot_bytes_), stop_},
                   static_cast<const std::uint32_t*>(from), static_cast<int>(bytes / sizeof(std::uint32_t)));
  commands_.keep_loop();
  go_on(turns);
}

void DeviceLoop::go_on(int turns) {
  set_turns(turns);
  commands_.run_loop();
}

void DeviceLoop::collect(void* to_host, std::size_t bytes) {
  if (collected_ == begun_ || ended_) throw Error("CUDA: a turn is awaited that no loop will make");
  const std::byte* slot = slots_ + collected_ % kMostTurns * slot_bytes_;
  runtime_.await(*reinterpret_cast<const std::uint64_t*>(slot), collected_ + 1);
  ++collected_;
  std::memcpy(times_.data(), slot + kTimesAt, sizeof times_);
  if (bytes > 0) std::memcpy(to_host, slot + kRecordAt, bytes);
}

// One loop of one turn, to see whether the driver does what its version promises.
bool DeviceLoop::works() {
  if (!runtime_.can_loop()) return false;
  if (tried_) return works_;
  tried_ = true;
  try {
    begin();
    start(1, nullptr, 0);
    collect(nullptr, 0);
    works_ = true;
  } catch (const std::exception&) {
    end();
  }
  return works_;
}

void DeviceLoop::end() {
  commands_.drop_loop();
  if (collected_ == begun_) return;
  __atomic_store_n(stop_, 1u, __ATOMIC_RELEASE);
  ended_ = true;
}

double DeviceLoop::seconds_between(int first_point, int second_point) const {
  const std::uint64_t first = times_[static_cast<std::size_t>(first_point)];
  const std::uint64_t second = times_[static_cast<std::size_t>(second_point)];
  return second > first ? static_cast<double>(second - first) * 1e-9 : 0.0;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
