// A persistent pool of threads and the one way to use it: parallel_for.
//
// Contract: what a loop computes must not depend on which thread runs which piece, nor on how many threads there are.
// Every kernel therefore writes each output from one piece only, and splits by fixed sizes, never by thread count.
//
// A pool survives fork: the child starts threads of its own when it needs them.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace frspec {

// Cores this process may run on (its affinity mask counts), at least 1.
int available_cores();

class ThreadPool {
 public:
  // `threads` includes the caller; 0 takes available_cores().
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls body(begin, end, worker) for runs of pieces of `grain` that together cover [0, count), then returns. `worker`
  // (0 to size() - 1) tells pieces that may run at the same time apart: it chooses scratch memory, nothing else.
  // The first exception of a piece is rethrown here, after all pieces have ended. One caller at a time.
  template <class Body>
  void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
    if (size_ == 1 || count <= grain) {
      if (count > 0) body(std::int64_t{0}, count, 0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run(Job{[](void* context, std::int64_t begin, std::int64_t end, int worker) {
              (*static_cast<Plain*>(context))(begin, end, worker);
            },
            const_cast<void*>(static_cast<const void*>(&body)), count, grain});
  }

 private:
  struct Job {
    void (*call)(void* context, std::int64_t begin, std::int64_t end, int worker) = nullptr;
    void* context = nullptr;
    std::int64_t count = 0;
    std::int64_t grain = 1;
  };
  class Crew;

  void run(const Job& job);
  void leave_to_parent();

  int size_;
  std::uint32_t forks_;  // when the crew was made: a forked process needs another one
  std::unique_ptr<Crew> crew_;
};

}  // namespace frspec
