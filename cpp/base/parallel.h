// A persistent pool of threads and the one way to use it: parallel_for.
//
// Contract: what a loop computes must not depend on which thread runs which piece, nor on how many threads there are.
// Every kernel therefore writes each output from one piece only, and splits by fixed sizes, never by thread count.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

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

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end, worker) for runs of pieces of `grain` that together cover [0, count), then returns. `worker`
  // (0 to size() - 1) tells pieces that may run at the same time apart: it chooses scratch memory, nothing else.
  // The first exception of a piece is rethrown here, after all pieces have ended. One caller at a time.
  template <class Body>
  void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
    if (workers_.empty() || count <= grain) {
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
  // Pieces of the current job that one worker owns: a contiguous run, so that a worker meets the same part of a weight
  // in every pass. Whoever has finished takes pieces from the others.
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

  struct Job {
    void (*call)(void* context, std::int64_t begin, std::int64_t end, int worker) = nullptr;
    void* context = nullptr;
    std::int64_t count = 0;
    std::int64_t grain = 1;
  };

  void run(const Job& job);
  void work_on(const Job& job, int worker);
  void worker_loop(int worker);
  void stop();

  Job job_;
  std::vector<Share> shares_;                 // by worker
  std::atomic<bool> open_{false};             // whether a worker may join the current job
  std::atomic<int> busy_{0};                  // workers that are at it, or about to see whether they may
  std::atomic<std::uint32_t> generation_{0};  // counts jobs; workers wait for it to change
  std::atomic<bool> stopping_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

}  // namespace frspec
