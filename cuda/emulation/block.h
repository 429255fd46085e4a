// One block of threads on the host: each thread is a fiber, which runs until it has to wait for others.
//
// What the emulation is strict about: all threads of a warp take part in a collective operation, and all of a block in
// its barrier, and it is the same operation for all; shared memory is poisoned at first and guarded around every piece;
// asynchronous copies arrive only when they are waited for, and until then their destination is poisoned. Blocks, and
// warps and lanes between their meetings, run in random order: the same for the same seed
// (FRSPEC_CUDA_EMULATION_SEED).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cuda/emulation/fiber.h"
#include "cuda/emulation/halves.h"
#include "cuda/emulation/memory.h"

namespace frspec::emulation {

enum class Half : std::uint8_t { F16, BF16 };

struct GridSize {
  int x = 1, y = 1, z = 1;
};

class Block {
 public:
  static constexpr int kWarp = 32;
  static constexpr int kMostThreads = 1024;

  Block();

  // Runs all blocks of a grid. Throws Error where a kernel breaks the rules above.
  void run(const char* kernel, GridSize grid, int threads, std::size_t shared_bytes, void (*body)(void*),
           void* context);

  // --- What the running thread asks ---
  int thread() const { return running_; }
  int threads() const { return threads_; }
  int index(int axis) const { return index_[axis]; }
  int grid(int axis) const { return axis == 0 ? grid_.x : axis == 1 ? grid_.y : grid_.z; }

  template <class T>
  T exchange(T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    Slot& mine = slot();
    std::memcpy(mine.in, &value, sizeof value);
    Slot* slots = meet_warp(Meeting::Exchange);
    T result;
    std::memcpy(&result, slots[source & (kWarp - 1)].in, sizeof result);
    return result;
  }
  // The values of all lanes.
  template <class T>
  void gather(T value, T (&all)[kWarp]) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    std::memcpy(slot().in, &value, sizeof value);
    const Slot* slots = meet_warp(Meeting::Exchange);
    for (int l = 0; l < kWarp; ++l) std::memcpy(&all[l], slots[l].in, sizeof value);
  }
  // Of all lanes' values: combined with those 16 lanes further, then 8, 4, 2, 1.
  template <class T, class Combine>
  T reduce(T value, Combine&& combine) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    std::memcpy(slot().in, &value, sizeof value);
    const auto combine_all = [&combine](Slot* slots) {
      T all[kWarp];
      for (int l = 0; l < kWarp; ++l) std::memcpy(&all[l], slots[l].in, sizeof(T));
      for (int half = kWarp / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) all[i] = combine(all[i], all[i + half]);
      }
      std::memcpy(slots[0].out, &all[0], sizeof(T));
    };
    Slot* slots = meet_warp(Meeting::Exchange, combine_all);
    std::memcpy(&value, slots[0].out, sizeof value);
    return value;
  }
  // The sums of several values of all lanes, each in the order of reduce.
  template <int count>
  void sum_all(float (&values)[count]) {
    static_assert(sizeof values <= sizeof(Slot::in));
    std::memcpy(slot().in, values, sizeof values);
    const Slot* slots = meet_warp(Meeting::Exchange, [](Slot* all) {
      for (int half = kWarp / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; ++l) {
          float low[count], high[count];
          std::memcpy(low, all[l].in, sizeof low);
          std::memcpy(high, all[l + half].in, sizeof high);
          for (int i = 0; i < count; ++i) low[i] += high[i];
          std::memcpy(all[l].in, low, sizeof low);
        }
      }
    });
    std::memcpy(values, slots[0].in, sizeof values);
  }
  unsigned ballot(bool predicate);
  void warp_sync() { meet_warp(Meeting::Sync); }
  void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Half type);
  void block_sync() { meet_block(Meeting::Sync, false); }
  bool block_any(bool predicate) { return meet_block(Meeting::Any, predicate); }
  void* shared(int offset, int bytes);
  // What the device cannot do: reading or writing so many bytes at once at another address than a multiple of them.
  void expect_aligned(const void* at, std::size_t bytes) {
    if (reinterpret_cast<std::uintptr_t>(at) % bytes != 0) report_alignment(at, bytes);
  }
  void copy_async(void* shared, const void* global);
  void copy_commit();
  void copy_wait(int pending);
  // For the handler of bad memory accesses: ends the kernel with an error.
  [[noreturn]] void report_fault(const void* address, const std::string& what);

 private:
  enum class Meeting : std::uint8_t { None, Exchange, Ballot, Sync, MmaF16, MmaBf16, Any };

  // What a lane brings to a meeting of its warp, and what it gets.
  struct Slot {
    std::uint32_t in[8];
    float out[4];
  };
  struct Warp {
    Slot slots[2][kWarp];   // of this meeting and the one before, which slow lanes may still read
    std::uint32_t met = 0;  // meetings so far
    int arrived = 0;
    Meeting kind = Meeting::None;
  };
  struct PendingCopy {
    void* to;
    std::byte bytes[16];
    int group;
  };
  struct Thread {
    enum class State : std::uint8_t { Ready, WaitsForWarp, WaitsForBlock, Done } state = State::Ready;
    std::uint32_t met = 0;  // meetings of its warp or block when it began to wait
    std::vector<PendingCopy> copies;
    int groups = 0;
  };

  void run_block();
  void run_warp(int warp, int& done, bool& progress);
  void check_guards();
  std::uint64_t random();
  bool can_run(const Thread& thread, const Warp& warp) const;
  Slot& slot();
  // Waits until all lanes are there; the last one calls complete(slots) before anybody goes on.
  template <class Complete>
  Slot* meet_warp(Meeting kind, Complete&& complete) {
    Warp& warp = arrive(kind);
    Slot* slots = warp.slots[warp.met & 1];
    if (warp.arrived == kWarp) {
      complete(slots);
      warp.arrived = 0;
      ++warp.met;
    } else {
      wait_for(warp);
    }
    return slots;
  }
  Slot* meet_warp(Meeting kind) {
    return meet_warp(kind, [](Slot*) {});
  }
  Warp& arrive(Meeting kind);
  void wait_for(const Warp& warp);
  bool meet_block(Meeting kind, bool predicate);
  static void multiply(Slot* slots, Half type);
  [[noreturn]] void report_alignment(const void* at, std::size_t bytes);
  // Called by a thread: the kernel ends here.
  [[noreturn]] void give_up(const std::string& what);
  void shuffle(std::vector<int>& order);
  std::string place() const;

  static void thread_main(void* block);

  const char* kernel_ = "";
  GridSize grid_;
  int threads_ = 0;
  int index_[3] = {0, 0, 0};
  int running_ = -1;
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Thread> state_;
  std::vector<Warp> warps_;
  std::uint32_t met_ = 0;  // barriers of the block so far
  int arrived_ = 0;
  Meeting kind_ = Meeting::None;
  bool any_ = false, said_ = false;
  std::byte* shared_ = nullptr;   // pieces with guards between them, at the end of shared_region_
  std::size_t shared_used_ = 0;   // guards included
  std::size_t shared_bytes_ = 0;  // that the launch stated
  GuardedRegion shared_region_;
  std::vector<int> pieces_;  // sizes, in the order in which they were taken
  std::string failure_;
  std::uint64_t random_;
  std::vector<int> warp_order_, block_order_;
};

// The block that this thread of the host is running. Kernels ask for it all the time; as it is the same one as long as
// they run, the compiler may keep the answer.
[[gnu::const]] Block& current_block();
// Whether it runs one: where an access to memory went wrong, it was a kernel's.
Block* running_block();

}  // namespace frspec::emulation
