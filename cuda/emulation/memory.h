// The emulated device's memory: each allocation ends at a page that must not be touched, as the page in front of it,
// and outside of kernels and copies the host must not touch it either, as on a real device.
//
// The lock and the list of allocations are the process's; memory is open to all threads while one of them has access.
#pragma once

#include <cstddef>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace frspec::emulation {

inline constexpr std::size_t kPage = 4096;

// Zero-filled, aligned to 64 bytes, not open. Null where there is not so much.
void* allocate_device(std::size_t bytes);
void release_device(void* memory);
// What is allocated, and what the emulated device has in all: FRSPEC_CUDA_EMULATION_MEMORY bytes (64 GiB).
std::size_t allocated_device();
std::size_t device_capacity();

// An error where somebody has written between an allocation and the pages around it, which a kernel called `writer` has
// just done, if only one thread uses the device. Called with access.
void check_allocations(const char* writer);

// While one lives, device memory may be touched.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

// What the address sanitizer reports from now on when it is touched, or no longer. Without it, nothing.
inline constexpr bool kSanitized =
#if defined(__SANITIZE_ADDRESS__)
    true;
inline void forbid(const void* at, std::size_t bytes) { __asan_poison_memory_region(at, bytes); }
inline void permit(const void* at, std::size_t bytes) { __asan_unpoison_memory_region(at, bytes); }
#else
    false;
inline void forbid(const void*, std::size_t) {}
inline void permit(const void*, std::size_t) {}
#endif

// Whether each of some bytes has the same value.
inline bool are_all(const std::byte* at, std::size_t count, std::byte value) {
  return count == 0 || (*at == value && std::memcmp(at, at + 1, count - 1) == 0);
}

// Pages of the host of which a part may be touched.
class GuardedRegion {
 public:
  explicit GuardedRegion(std::size_t most_bytes);
  ~GuardedRegion();
  GuardedRegion(const GuardedRegion&) = delete;
  GuardedRegion& operator=(const GuardedRegion&) = delete;

  // The last so many bytes, a multiple of the page size, may be touched from now on, and nothing around them.
  std::byte* open(std::size_t bytes);

 private:
  std::byte* whole_;
  std::size_t most_;
  std::size_t open_ = 0;
};

}  // namespace frspec::emulation
