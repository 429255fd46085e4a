// The emulated device's memory.
#include "cuda/emulation/memory.h"

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>

#include <sys/mman.h>

#include "base/error.h"
#include "cuda/emulation/block.h"

namespace frspec::emulation {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 64;

struct Allocation {
  std::size_t mapped = 0;  // bytes of its pages, without the guards before and behind
  std::size_t bytes = 0;
};

// All allocations of the process, by the address of their first page.
struct Memory {
  std::mutex mutex;
  std::map<std::uintptr_t, Allocation> allocations;
  std::size_t total = 0;
  int open = 0;  // DeviceAccess objects
  struct sigaction previous = {};
  bool handles = false;
};

Memory& memory() {
  static Memory* memory = new Memory;  // buffers may outlive every static object
  return *memory;
}

// A kernel touched what it must not: its error. Otherwise whoever handled it before does.
void on_fault(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (Block* block = running_block(); block != nullptr && block->thread() >= 0) {
    const auto& allocations = memory().allocations;
    auto next = allocations.upper_bound(address + kPage);
    if (next != allocations.begin()) {
      const auto& [start, allocation] = *--next;
      if (address + kPage >= start && address < start + allocation.mapped + kPage) {
        block->report_fault(info->si_addr, concat("outside of a buffer of ", allocation.bytes, " bytes that ends at ",
                                                  reinterpret_cast<const void*>(start + allocation.mapped)));
      }
    }
    block->report_fault(info->si_addr, "which is no memory of the device");
  }
  const struct sigaction& previous = memory().previous;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    std::signal(signal, SIG_DFL);  // and the access is tried again
  }
}

void install_handler(Memory& m) {
  if (m.handles) return;
  m.handles = true;
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  // The handler may leave by switching to another stack, so the signal must not stay blocked.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &m.previous);
}

}  // namespace

std::size_t device_capacity() {
  const char* text = std::getenv("FRSPEC_CUDA_EMULATION_MEMORY");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : std::size_t{64} << 30;
}

std::size_t allocated_device() {
  const std::lock_guard lock(memory().mutex);
  return memory().total;
}

void* allocate_device(std::size_t bytes) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  install_handler(m);
  const std::size_t wanted = (std::max(bytes, std::size_t{1}) + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t capacity = device_capacity();
  if (bytes > capacity || m.total + wanted > capacity) return nullptr;
  const std::size_t mapped = (wanted + kPage - 1) / kPage * kPage;
  void* whole = mmap(nullptr, mapped + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (whole == MAP_FAILED) return nullptr;
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(whole) + kPage;
  if (m.open > 0) mprotect(reinterpret_cast<void*>(start), mapped, PROT_READ | PROT_WRITE);
  m.allocations[start] = {mapped, bytes};
  m.total += wanted;
  return reinterpret_cast<void*>(start + mapped - wanted);
}

void release_device(void* pointer) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto found = --m.allocations.upper_bound(reinterpret_cast<std::uintptr_t>(pointer));
  const auto [start, allocation] = *found;
  m.total -= (std::max(allocation.bytes, std::size_t{1}) + kAlignment - 1) / kAlignment * kAlignment;
  m.allocations.erase(found);
  munmap(reinterpret_cast<void*>(start - kPage), allocation.mapped + 2 * kPage);
}

DeviceAccess::DeviceAccess() {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (m.open++ > 0) return;
  for (const auto& [start, allocation] : m.allocations) {
    mprotect(reinterpret_cast<void*>(start), allocation.mapped, PROT_READ | PROT_WRITE);
  }
}

DeviceAccess::~DeviceAccess() {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (--m.open > 0) return;
  for (const auto& [start, allocation] : m.allocations) {
    mprotect(reinterpret_cast<void*>(start), allocation.mapped, PROT_NONE);
  }
}

}  // namespace frspec::emulation
