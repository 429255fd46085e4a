// Numpy arrays in and out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace frspec {

// What Python hands in: float32, C order; other layouts and types are converted.
using InputMatrix = nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using InputVector = nanobind::ndarray<const float, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

template <class T>
using OutputMatrix = nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<2>>;
template <class T>
using OutputVector = nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>>;

// An array that owns `values`, which are moved, not copied. `shape` has the dimensions of Array.
template <class Array, class T>
Array to_array(std::vector<T>&& values, std::initializer_list<std::size_t> shape) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owner->data();
  nanobind::capsule capsule(owner.get(), [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  owner.release();
  return Array(data, shape, capsule);
}

}  // namespace frspec
