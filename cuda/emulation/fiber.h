// A fiber: a function with a stack of its own, which runs until it pauses itself.
#pragma once

#include <cstddef>
#include <functional>

namespace frspec::emulation {

class Fiber {
 public:
  explicit Fiber(std::size_t stack_bytes);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the fiber ready to call body(context). What it was doing before is forgotten.
  void prepare(void (*body)(void* context), void* context);
  // Runs it until it pauses or its body returns. Called by the thread that owns it, never by another fiber.
  void resume();
  // Called by the body: goes back to whoever resumed it.
  void pause();
  bool finished() const { return finished_; }

 private:
  static void start(Fiber* fiber);

  std::byte* memory_;  // a page that must not be touched, then the stack
  std::size_t bytes_;
  void* own_ = nullptr;     // stack pointer while it does not run
  void* caller_ = nullptr;  // the same of whoever resumed it
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  bool finished_ = true;
  void* fake_stack_ = nullptr;  // address sanitizer's
  const void* caller_stack_ = nullptr;
  std::size_t caller_stack_bytes_ = 0;
};

}  // namespace frspec::emulation
