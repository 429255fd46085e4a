// Switching stacks.
#include "cuda/emulation/fiber.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>

#include <sys/mman.h>

#include "cuda/emulation/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a called function must leave alone, and its stack pointer in *save; then goes on where `load` was saved.
extern "C" void frspec_switch_stacks(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.globl frspec_switch_stacks
.hidden frspec_switch_stacks
.type frspec_switch_stacks, @function
frspec_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size frspec_switch_stacks, .-frspec_switch_stacks
.globl frspec_fiber_entry
.hidden frspec_fiber_entry
.type frspec_fiber_entry, @function
frspec_fiber_entry:
  movq %r12, %rdi
  callq *%r13
  ud2
.size frspec_fiber_entry, .-frspec_fiber_entry
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl frspec_switch_stacks
.hidden frspec_switch_stacks
.type frspec_switch_stacks, %function
frspec_switch_stacks:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size frspec_switch_stacks, .-frspec_switch_stacks
.globl frspec_fiber_entry
.hidden frspec_fiber_entry
.type frspec_fiber_entry, %function
frspec_fiber_entry:
  mov x0, x19
  blr x20
  brk #1
.size frspec_fiber_entry, .-frspec_fiber_entry
)");
#else
#error "the host emulation of CUDA knows x86-64 and aarch64"
#endif

extern "C" void frspec_fiber_entry();

namespace frspec::emulation {
Fiber::Fiber(std::size_t stack_bytes) : bytes_(stack_bytes + kPage) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<std::byte*>(memory);
  mprotect(memory_, kPage, PROT_NONE);
}

Fiber::~Fiber() {
  permit(memory_ + kPage, bytes_ - kPage);
  munmap(memory_, bytes_);
}

void Fiber::prepare(void (*body)(void*), void* context) {
  body_ = body;
  context_ = context;
  finished_ = false;
  fake_stack_ = nullptr;
  permit(memory_ + kPage, bytes_ - kPage);  // what an abandoned body left
  // As frspec_switch_stacks would have left it, with the entry as the place to go on.
  auto* top = reinterpret_cast<std::uint64_t*>(memory_ + bytes_);
  auto start_address = reinterpret_cast<std::uint64_t>(&Fiber::start);
#if defined(__x86_64__)
  std::uint64_t* at = top - 9;  // behind the entry's `ret` the stack is aligned to 16 bytes, as a call wants it
  at[0] = at[1] = 0;
  at[2] = start_address;                          // r13
  at[3] = reinterpret_cast<std::uint64_t>(this);  // r12
  at[4] = at[5] = 0;
  at[6] = reinterpret_cast<std::uint64_t>(&frspec_fiber_entry);
  at[7] = at[8] = 0;
#else
  std::uint64_t* at = top - 20;
  std::memset(at, 0, 160);
  at[0] = reinterpret_cast<std::uint64_t>(this);  // x19
  at[1] = start_address;                          // x20
  at[11] = reinterpret_cast<std::uint64_t>(&frspec_fiber_entry);
#endif
  own_ = at;
}

void Fiber::start(Fiber* fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &fiber->caller_stack_, &fiber->caller_stack_bytes_);
#endif
  fiber->body_(fiber->context_);
  fiber->finished_ = true;
  fiber->pause();
}

void Fiber::resume() {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, memory_ + kPage, bytes_ - kPage);
#endif
  frspec_switch_stacks(&caller_, own_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void Fiber::pause() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished_ ? nullptr : &fake_stack_, caller_stack_, caller_stack_bytes_);
#endif
  frspec_switch_stacks(&own_, caller_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &caller_stack_, &caller_stack_bytes_);
#endif
}

}  // namespace frspec::emulation
