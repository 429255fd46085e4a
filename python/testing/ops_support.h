// What the bindings of single operations share: weights of a file, and arrays in a backend's memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "bindings/arrays.h"
#include "gguf/gguf_file.h"

namespace frspec {

using Ints = std::vector<std::int32_t>;
using Best = std::pair<OutputMatrix<std::int32_t>, OutputMatrix<float>>;  // ids and log-probabilities

inline WeightSource open_source(const std::filesystem::path& path, const std::string& name,
                                const LogitRule& rule = {}) {
  auto file = GgufFile::open(path);
  const GgufTensor& tensor = file->tensor(name);
  WeightSource source{file->path().string(), name, tensor.type, tensor.rows(), tensor.cols(), tensor.data, file};
  source.logit_rule = rule;
  return source;
}

inline std::size_t positive(std::size_t value, const char* name) {
  if (value == 0) fail(name, ": found 0, expected at least 1");
  return value;
}

template <class T>
Buffer to_device(Backend& backend, const T* values, std::size_t count) {
  Buffer buffer = backend.allocate(count * sizeof(T));
  backend.upload(buffer.as<void>(), values, count * sizeof(T));
  return buffer;
}

// A matrix in the backend's memory, and back.
struct DeviceMatrix {
  DeviceMatrix(Backend& backend, const InputMatrix& host)
      : buffer(to_device(backend, host.data(), host.size())), rows(host.shape(0)), cols(host.shape(1)) {}

  Tensor view() const { return buffer.matrix(static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols)); }

  Buffer buffer;
  std::size_t rows, cols;
};

template <class Array, class T>
Array to_host(Backend& backend, const Buffer& buffer, std::initializer_list<std::size_t> shape) {
  std::size_t count = 1;
  for (const std::size_t size : shape) count *= size;
  std::vector<T> values(count);
  backend.download(values.data(), buffer.as<void>(), count * sizeof(T));
  return to_array<Array>(std::move(values), shape);
}

// The pages of a sequence of so many slots: the given ones, or 0, 1, ...
struct DevicePages {
  DevicePages(Backend& backend, const std::optional<Ints>& pages, std::size_t slots) {
    Ints ids = pages.value_or(Ints{});
    const std::size_t needed = (slots + kPageSlots - 1) / kPageSlots;
    if (!pages) {
      for (std::size_t i = 0; i < needed; ++i) ids.push_back(static_cast<std::int32_t>(i));
    }
    if (ids.size() < needed) fail("pages: found ", ids.size(), ", expected at least ", needed);
    const std::int32_t most = ids.empty() ? -1 : *std::max_element(ids.begin(), ids.end());
    if (most >= 1 << 16 || (!ids.empty() && *std::min_element(ids.begin(), ids.end()) < 0))
      fail("pages: found no page");
    count = static_cast<int>(ids.size());
    capacity = (most + 1) * kPageSlots;
    memory = to_device(backend, ids.data(), ids.size());
  }
  SequenceView behind(const Buffer& length) const {
    return {length.as<std::int32_t>(), memory.as<std::int32_t>(), count};
  }

  int count = 0;
  int capacity = 0;  // slots of a cache that has all these pages
  Buffer memory;
};

// A weight of a file and rows to multiply it with.
struct Head {
  Head(const std::filesystem::path& path, const std::string& tensor, const InputMatrix& x, int n_threads,
       const std::string& device, const LogitRule& rule = {})
      : backend(make_backend({device, n_threads})) {
    const WeightSource source = open_source(path, tensor, rule);
    if (x.shape(1) != static_cast<std::size_t>(source.cols)) {
      fail("hidden: found ", x.shape(1), " columns, expected ", source.cols, ", those of tensor '", tensor, "'");
    }
    weight = backend->load(source);
    hidden = std::make_unique<DeviceMatrix>(*backend, x);
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Weight> weight;
  std::unique_ptr<DeviceMatrix> hidden;
};

}  // namespace frspec
