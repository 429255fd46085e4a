#include "base/forks.h"

#include <pthread.h>

#include "base/error.h"

namespace frspec {
namespace {

std::atomic<std::uint32_t> forks{0};
std::atomic<std::thread::id> forked_by{std::thread::id()};

void note_fork() {
  forked_by.store(std::this_thread::get_id());
  forks.fetch_add(1);
}

const int registered = pthread_atfork(nullptr, nullptr, note_fork);

}  // namespace

std::uint32_t fork_count() {
  (void)registered;
  return forks.load(std::memory_order_relaxed);
}

std::thread::id forking_thread() { return forked_by.load(); }

bool OwnedMutex::State::is_lost() const {
  const std::thread::id holder = owner.load();
  return is_of_parent() && holder != std::thread::id() && holder != forking_thread();
}

void OwnedMutex::lock() {
  State* state = state_.load();
  if (state->is_lost()) {
    throw Error(
        concat("this ", what_,
               " was at work in another thread when the process forked, so its copy here is half done; expected "
               "one that is loaded after the fork, or a fork while it is idle"));
  }
  if (state->is_of_parent() && state->owner.load() == std::thread::id()) {
    // A lost thread may have been about to own it. The old one stays: other threads may be here, too.
    State* fresh = new State;
    if (!state_.compare_exchange_strong(state, fresh)) delete fresh;
    state = state_.load();
  }
  state->mutex.lock();
  state->owner.store(std::this_thread::get_id());
}

void OwnedMutex::unlock() {
  State* state = state_.load();
  state->owner.store(std::thread::id());
  state->mutex.unlock();
}

bool OwnedMutex::is_mine() const {
  const State* state = state_.load();
  return state->owner.load() == std::this_thread::get_id() && !state->is_lost();
}

}  // namespace frspec
