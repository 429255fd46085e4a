// The emulated device's memory: each allocation ends at a page that must not be touched, and outside of kernels and
// copies the host must not touch it either, as on a real device.
#pragma once

#include <cstddef>

namespace frspec::emulation {

// Zero-filled, aligned to 64 bytes, not open. Null where there is not so much.
void* allocate_device(std::size_t bytes);
void release_device(void* memory);
// What is allocated, and what the emulated device has in all: FRSPEC_CUDA_EMULATION_MEMORY bytes (64 GiB).
std::size_t allocated_device();
std::size_t device_capacity();

// While one lives, device memory may be touched.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace frspec::emulation
