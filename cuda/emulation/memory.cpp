// The emulated device's memory.
#include "cuda/emulation/memory.h"

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string>

#include <sys/mman.h>

#include "base/error.h"
#include "cuda/emulation/block.h"

namespace frspec::emulation {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kMostMargin = 256;            // bytes that are looked at in front of an allocation
constexpr std::size_t kFar = std::size_t{1} << 20;  // bytes of forbidden pages before and behind
constexpr int kMargin = 0xA5;

struct Allocation {
  std::size_t mapped = 0;  // bytes of its pages, without the guards before and behind
  std::size_t bytes = 0;

  std::size_t aligned() const { return (std::max(bytes, std::size_t{1}) + kAlignment - 1) / kAlignment * kAlignment; }
  // Offsets from the first page: the margin in front, and that behind, which ends with the pages.
  std::size_t begin() const { return mapped - aligned(); }
  std::size_t margin_begin() const { return begin() - std::min(begin(), kMostMargin); }
  std::size_t end() const { return begin() + bytes; }
};

bool is_margin(const std::byte* at, std::size_t bytes) { return are_all(at, bytes, std::byte{kMargin}); }

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

std::string describe(std::uintptr_t address) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);  // no kernel holds it, and no other thread waits for one
  auto next = m.allocations.upper_bound(address + kFar);
  if (next != m.allocations.begin()) {
    const auto& [start, allocation] = *--next;
    if (address + kFar >= start && address < start + allocation.mapped + kFar) {
      return concat("outside of a buffer of ", allocation.bytes, " bytes that begins at ",
                    reinterpret_cast<const void*>(start + allocation.begin()));
    }
  }
  return "which is no memory of the device";
}

// A kernel touched what it must not: its error. Otherwise whoever handled it before does.
void on_fault(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (Block* block = running_block(); block != nullptr && block->thread() >= 0) {
    block->report_fault(info->si_addr, describe(address));
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
  const std::size_t capacity = device_capacity();
  if (bytes > capacity) return nullptr;
  Allocation allocation{0, bytes};
  const std::size_t wanted = allocation.aligned();
  if (m.total + wanted > capacity) return nullptr;
  const std::size_t mapped = allocation.mapped = (wanted + kPage - 1) / kPage * kPage;
  void* whole = mmap(nullptr, mapped + 2 * kFar, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (whole == MAP_FAILED) return nullptr;
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(whole) + kFar;
  auto* pages = reinterpret_cast<std::byte*>(start);
  mprotect(pages, mapped, PROT_READ | PROT_WRITE);
  std::memset(pages + allocation.margin_begin(), kMargin, allocation.begin() - allocation.margin_begin());
  std::memset(pages + allocation.end(), kMargin, mapped - allocation.end());
  forbid(pages, allocation.begin());
  forbid(pages + allocation.end(), mapped - allocation.end());
  if (m.open == 0) mprotect(pages, mapped, PROT_NONE);
  m.allocations[start] = allocation;
  m.total += wanted;
  return pages + allocation.begin();
}

void release_device(void* pointer) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto found = --m.allocations.upper_bound(reinterpret_cast<std::uintptr_t>(pointer));
  const auto [start, allocation] = *found;
  m.total -= allocation.aligned();
  permit(reinterpret_cast<void*>(start), allocation.mapped);
  m.allocations.erase(found);
  munmap(reinterpret_cast<void*>(start - kFar), allocation.mapped + 2 * kFar);
}

void check_allocations(const char* writer) {
  if (kSanitized) return;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  for (auto& [start, allocation] : m.allocations) {
    auto* pages = reinterpret_cast<std::byte*>(start);
    std::byte* front = pages + allocation.margin_begin();
    const std::size_t front_bytes = allocation.begin() - allocation.margin_begin();
    std::byte* behind = pages + allocation.end();
    const std::size_t behind_bytes = allocation.mapped - allocation.end();
    const bool front_is_whole = is_margin(front, front_bytes);
    if (front_is_whole && is_margin(behind, behind_bytes)) continue;
    std::memset(front, kMargin, front_bytes);  // it is reported once
    std::memset(behind, kMargin, behind_bytes);
    throw Error(concat("emulated CUDA: kernel ", writer, ": wrote ", front_is_whole ? "behind" : "in front of",
                       " a buffer of ", allocation.bytes, " bytes"));
  }
}

GuardedRegion::GuardedRegion(std::size_t most_bytes) : most_((most_bytes + kPage - 1) / kPage * kPage) {
  void* whole = mmap(nullptr, most_ + 2 * kFar, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (whole == MAP_FAILED) throw std::bad_alloc();
  whole_ = static_cast<std::byte*>(whole);
}

GuardedRegion::~GuardedRegion() { munmap(whole_, most_ + 2 * kFar); }

std::byte* GuardedRegion::open(std::size_t bytes) {
  std::byte* end = whole_ + kFar + most_;
  if (bytes > open_) mprotect(end - bytes, bytes - open_, PROT_READ | PROT_WRITE);
  if (bytes < open_) mprotect(end - open_, open_ - bytes, PROT_NONE);
  open_ = bytes;
  return end - bytes;
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
