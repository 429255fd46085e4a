// The GIL: given away while native code computes, taken back where it needs Python, in a process that may be ending.
//
// Once the interpreter has begun to end, no thread but the one that ends it gets the GIL any more. Python up to 3.13
// ends a thread that asks for it, by an exception through all of its frames, which may not leave a destructor: the
// process would be aborted. So such a thread stops here, as it does from Python 3.14 on, until the process is gone.
// nanobind's own gil_scoped_release and gil_scoped_acquire do not, and are not used.
#pragma once

#include <utility>

#include <cxxabi.h>
#include <unistd.h>

#include <Python.h>

namespace frspec {

// What this thread needs to take the GIL back; null while it has it.
inline PyThreadState*& waiting_thread() {
  static thread_local PyThreadState* state = nullptr;
  return state;
}

[[noreturn]] inline void stop_thread() {
  for (;;) ::pause();
}

inline void take_gil(PyThreadState* state) noexcept {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {  // only that of a thread that is being ended
    stop_thread();
  }
}

// use(), which runs Python code: that may ask for the GIL, too. Objects of Python should be outside of it, since
// nobody may destroy them then.
template <class Use>
decltype(auto) run_python(Use&& use) {
#ifdef __GLIBCXX__
  try {
    return use();
  } catch (const abi::__forced_unwind&) {
    stop_thread();
  }
#else
  return use();
#endif
}

// Without the GIL, which this thread has, until the end of its life.
class WithoutGil {
 public:
  WithoutGil() : outer_(std::exchange(waiting_thread(), PyEval_SaveThread())) {}
  ~WithoutGil() { take_gil(std::exchange(waiting_thread(), outer_)); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* outer_;
};

// With the GIL, which this thread may have or have given away, until the end of its life.
class WithGil {
 public:
  WithGil() : state_(std::exchange(waiting_thread(), nullptr)) {
    if (state_ != nullptr) take_gil(state_);
  }
  ~WithGil() {
    if (state_ != nullptr) waiting_thread() = PyEval_SaveThread();
  }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace frspec
