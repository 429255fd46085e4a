// The thread pool: workers spin briefly for the next job, because jobs of one token follow each other within
// microseconds, and then sleep, because nobody likes an idle process that burns its cores.
#include "base/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/forks.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace frspec {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kShareParts = 8;
constexpr int kSpins = 4000;  // 20 to 200 microseconds, by what the processor makes of a pause

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

int available_cores() {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// The threads beside the caller, and all that they share with it.
class ThreadPool::Crew {
 public:
  explicit Crew(int total);
  ~Crew() { stop(); }
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  void run(const Job& job);

 private:
  // Pieces of the current job that one worker owns: a contiguous run, so that a worker meets the same part of a weight
  // in every pass. Whoever has finished takes pieces from the others.
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

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

ThreadPool::ThreadPool(int threads) : size_(threads > 0 ? threads : available_cores()), forks_(fork_count()) {
  if (threads < -1 || threads > kMaxThreads) {
    fail("threads: found ", threads, ", expected 1 to ", kMaxThreads, ", or 0 or -1 for one per core");
  }
  crew_ = std::make_unique<Crew>(size_);
}

ThreadPool::~ThreadPool() { leave_to_parent(); }

// Where the process was forked since, threads that do not exist cannot be joined, nor what waits for them destroyed.
void ThreadPool::leave_to_parent() {
  if (forks_ != fork_count()) (void)crew_.release();
}

void ThreadPool::run(const Job& job) {
  if (forks_ != fork_count()) {
    leave_to_parent();
    crew_ = std::make_unique<Crew>(size_);
    forks_ = fork_count();
  }
  crew_->run(job);
}

ThreadPool::Crew::Crew(int total) : shares_(static_cast<std::size_t>(total)) {
  workers_.reserve(static_cast<std::size_t>(total - 1));
  try {
    for (int i = 1; i < total; ++i) workers_.emplace_back([this, i] { worker_loop(i); });
  } catch (const std::system_error& error) {
    stop();
    throw Error(concat("cannot start ", total, " threads: ", error.what()));
  }
}

void ThreadPool::Crew::stop() {
  stopping_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::Crew::work_on(const Job& job, int worker) {
  const auto count = static_cast<int>(shares_.size());
  for (int i = 0; i < count; ++i) {
    Share& share = shares_[static_cast<std::size_t>((worker + i) % count)];
    for (;;) {
      const std::int64_t left = share.end - share.next.load(std::memory_order_relaxed);
      if (left <= 0) break;
      // Many at first, and few towards the end: the line of `next` travels between cores each time that two want it.
      const std::int64_t several = std::max<std::int64_t>(1, left / kShareParts);
      const std::int64_t piece = share.next.fetch_add(several, std::memory_order_relaxed);
      if (piece >= share.end) break;
      const std::int64_t end = std::min(piece + several, share.end) * job.grain;
      try {
        job.call(job.context, piece * job.grain, std::min(end, job.count), worker);
      } catch (...) {
        const std::scoped_lock lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }
}

void ThreadPool::Crew::run(const Job& job) {
  job_ = job;
  const std::int64_t pieces = (job.count + job.grain - 1) / job.grain;
  const auto count = static_cast<std::int64_t>(shares_.size());
  for (std::int64_t i = 0; i < count; ++i) {
    Share& share = shares_[static_cast<std::size_t>(i)];
    share.next.store(i * pieces / count, std::memory_order_relaxed);
    share.end = (i + 1) * pieces / count;
  }
  open_.store(true);  // whoever comes from now on may join
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work_on(job_, 0);
  // Nothing is left to begin: only those are waited for that are still at something. A worker that wakes up too late,
  // because another process has its core, holds nobody up.
  open_.store(false);
  for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
    // More threads than cores: the one we wait for may need this core.
    spin < kSpins ? pause_cpu() : std::this_thread::yield();
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::Crew::worker_loop(int worker) {
  std::uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) pause_cpu();
    generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    // Registered before looking: either the caller sees this worker, or this worker sees that the job is closed.
    busy_.fetch_add(1);
    if (open_.load()) work_on(job_, worker);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace frspec
