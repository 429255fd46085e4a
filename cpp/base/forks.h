// What a process has to know of its forks. fork() copies memory, and of the threads only the one that called it: the
// others' work is left half done in the copy, and what they had locked stays so.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

namespace frspec {

// Changes in the child with every fork. Who starts threads keeps the number: where it is another one, they are gone.
std::uint32_t fork_count();
// The thread that called the last of them; none in a process that was not forked.
std::thread::id forking_thread();

// A mutex that knows its owner, and forks. Where another thread held it when the process forked, lock() throws Error in
// the child: nobody will ever unlock it, and what it guards is half done. `what` is named in the message.
class OwnedMutex {
 public:
  explicit OwnedMutex(const char* what) : what_(what), state_(new State) {}
  ~OwnedMutex() { delete state_.load(); }
  OwnedMutex(const OwnedMutex&) = delete;
  OwnedMutex& operator=(const OwnedMutex&) = delete;

  void lock();
  void unlock();
  bool is_mine() const;  // whether this thread holds it

 private:
  struct State {
    std::mutex mutex;
    std::atomic<std::thread::id> owner{std::thread::id()};
    std::uint32_t forks = fork_count();

    bool is_of_parent() const { return forks != fork_count(); }
    bool is_lost() const;  // its owner was not copied
  };

  const char* what_;
  std::atomic<State*> state_;
};

}  // namespace frspec
