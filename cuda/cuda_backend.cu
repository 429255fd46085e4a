// CUDA backend: set-up and transfers.
#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backend/registry.h"
#include "base/error.h"
#include "cuda/device/platform.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

namespace {

// Small things travel to the device as values of a kernel, so that they need not interrupt a list of commands.
struct SmallPacket {
  std::byte bytes[64];
};
struct LargePacket {
  std::byte bytes[1024];
};
constexpr std::size_t kMostInCommands = 16 * sizeof(LargePacket);

template <class Packet>
__global__ void store(std::byte* to, const __grid_constant__ Packet packet, int count) {
  for (int i = thread(); i < count; i += threads()) to[i] = packet.bytes[i];
}

}  // namespace

CudaBackend::CudaBackend(std::string name, std::unique_ptr<Runtime> runtime, int threads)
    : Backend({.own_memory = true, .asynchronous = true}),
      name_(std::move(name)),
      pool_(threads),
      device_(std::make_shared<Driver>(std::move(runtime))) {}

std::string CudaBackend::description() const {
  const DeviceInfo& device = device_->runtime->device();
  return concat(name_, " (", device.name, ", compute capability ", device.major, ".", device.minor, ")");
}

Buffer CudaBackend::Driver::own(void* memory, std::size_t bytes, bool pinned, std::shared_ptr<Driver> self) {
  return Buffer(memory, bytes, [pinned, device = std::move(self)](void* pointer) {
    const std::scoped_lock lock(device->mutex_);
    device->unused_.emplace_back(pointer, pinned);
  });
}

void CudaBackend::Driver::release_unused() {
  std::vector<std::pair<void*, bool>> unused;
  {
    const std::scoped_lock lock(mutex_);
    unused.swap(unused_);
  }
  if (unused.empty()) return;
  commands.wait_quietly();  // commands that are still to be run may use it
  for (const auto& [memory, pinned] : unused) {
    if (pinned) {
      runtime->release_pinned(memory);
    } else {
      runtime->release(memory);
    }
  }
}

Buffer CudaBackend::allocate(std::size_t bytes) {
  device_->release_unused();
  void* memory = device_->runtime->allocate(bytes);
  Buffer buffer = device_->own(memory, bytes, false, device_);
  device_->runtime->fill_zero(memory, bytes);
  return buffer;
}

// Scratch memory, and what the driver takes for graphs.
DeviceMemory CudaBackend::memory() {
  device_->release_unused();
  const std::size_t total = device_->runtime->device().total_bytes;
  return {device_->runtime->free_bytes(), total, std::min(total / 32, std::size_t{512} << 20)};
}

void* CudaBackend::Scratch::bytes(std::size_t count) {
  if (count > memory_.bytes()) {
    memory_ = Buffer();  // first, so that there is room
    memory_ = backend_.allocate(count + count / 4);
  }
  return memory_.as<void>();
}

void CudaBackend::upload(void* to, const void* from_host, std::size_t bytes) {
  if (bytes == 0) return;
  if (bytes > kMostInCommands) {
    device_->commands.flush();
    device_->runtime->copy_in(to, from_host, bytes);
    return;
  }
  const auto* from = static_cast<const std::byte*>(from_host);
  for (std::size_t at = 0; at < bytes; at += sizeof(LargePacket)) {
    const std::size_t count = std::min(bytes - at, sizeof(LargePacket));
    const auto send = [&](auto packet) {
      std::memcpy(packet.bytes, from + at, count);
      launch("upload", store<decltype(packet)>, {}, 32, 0, static_cast<std::byte*>(to) + at, packet,
             static_cast<int>(count));
    };
    if (count <= sizeof(SmallPacket)) {
      send(SmallPacket{});
    } else {
      send(LargePacket{});
    }
  }
}

void CudaBackend::post(int slot, const void* from, std::size_t bytes) {
  device_->commands.flush();
  device_->runtime->post(slot, from, bytes);
}

void CudaBackend::collect(int slot, void* to_host, std::size_t bytes) {
  device_->runtime->collect(slot, to_host, bytes);
}

void CudaBackend::download(void* to_host, const void* from, std::size_t bytes) {
  device_->commands.flush();
  if (bytes == 0) return device_->runtime->wait();
  device_->runtime->copy_out(to_host, from, bytes);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE

namespace frspec {

#ifdef FRSPEC_CUDA_EMULATED
std::unique_ptr<Backend> make_cuda_emulated_backend(const BackendOptions& options, int index) {
#else
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options, int index) {
#endif
  return std::make_unique<FRSPEC_CUDA_NAMESPACE::CudaBackend>(
      options.device, FRSPEC_CUDA_NAMESPACE::make_runtime(index), options.threads);
}

}  // namespace frspec
