// Launches of kernels, as data: they are recorded, compared, put into graphs (command_list.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/namespace.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

struct Grid {
  int x = 1, y = 1, z = 1;
  friend bool operator==(const Grid&, const Grid&) = default;
};

// The values of a kernel's parameters, one behind the other, each at an address that fits its type.
class Arguments {
 public:
  static constexpr int kMost = 16;

  void reserve(std::size_t bytes) { bytes_.reserve(bytes); }
  template <class T>
  void add(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 16);
    const std::size_t at = (bytes_.size() + alignof(T) - 1) / alignof(T) * alignof(T);
    offsets_[count_++] = static_cast<std::uint16_t>(at);
    bytes_.resize(at + sizeof(T));
    T copy = value;
    clear_padding(copy);
    std::memcpy(bytes_.data() + at, &copy, sizeof(T));
  }
  // Addresses of the values, as a launch wants them.
  void pointers(void** to) {
    for (std::size_t i = 0; i < count_; ++i) to[i] = bytes_.data() + offsets_[i];
  }
  friend bool operator==(const Arguments&, const Arguments&) = default;

 private:
  // What lies between members is whatever was on the stack: without this, equal values seem to differ, and a graph's
  // kernels are given them again in every step. (An nvcc before 12.4 may not know how.)
  template <class T>
  static void clear_padding([[maybe_unused]] T& value) {
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11 && \
    (!defined(__CUDACC__) || 100 * __CUDACC_VER_MAJOR__ + __CUDACC_VER_MINOR__ >= 1204)
    __builtin_clear_padding(&value);
#endif
  }

  std::vector<std::byte> bytes_;
  std::array<std::uint16_t, kMost> offsets_ = {};
  std::size_t count_ = 0;
};

struct Command {
  const char* name = "";                                         // for messages
  const void* kernel = nullptr;                                  // null: the time is noted under number `point`
  void (*call)(const void* kernel, void** arguments) = nullptr;  // the emulation's way to call it
  Grid grid = {};
  int threads = 0;
  std::size_t shared_bytes = 0;
  Arguments arguments = {};
  int point = 0;

  // Whether a graph that was made of the other could be given this one's values.
  bool is_like(const Command& other) const { return kernel == other.kernel && point == other.point; }
  friend bool operator==(const Command&, const Command&) = default;
};

#ifdef FRSPEC_CUDA_EMULATED
namespace detail {
template <class... Parameters, std::size_t... I>
void call_kernel(const void* kernel, void** arguments, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(kernel))(*static_cast<Parameters*>(arguments[I])...);
}
}  // namespace detail
#endif

template <class... Parameters, class... Values>
Command make_command(const char* name, void (*kernel)(Parameters...), Grid grid, int threads, std::size_t shared_bytes,
                     const Values&... values) {
  static_assert(sizeof...(Parameters) == sizeof...(Values), "one value for each parameter of the kernel");
  static_assert(sizeof...(Parameters) <= Arguments::kMost);
  static_assert((std::size_t{0} + ... + (sizeof(Parameters) + alignof(Parameters))) <= 4096, "what a launch takes");
  Command command{.name = name,
                  .kernel = reinterpret_cast<const void*>(kernel),
                  .grid = grid,
                  .threads = threads,
                  .shared_bytes = shared_bytes};
#ifdef FRSPEC_CUDA_EMULATED
  command.call = [](const void* k, void** arguments) {
    detail::call_kernel<Parameters...>(k, arguments, std::index_sequence_for<Parameters...>());
  };
#endif
  command.arguments.reserve((std::size_t{0} + ... + (sizeof(Parameters) + alignof(Parameters))));  // one allocation
  (command.arguments.add<std::remove_cv_t<Parameters>>(values), ...);
  return command;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
