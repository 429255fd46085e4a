// What the backend's operations work on: views of matrices, buffers that own memory, and weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tensor/dtype.h"

namespace frspec {

// A row-major matrix of f32 in a backend's memory. It owns nothing. (constexpr: device code uses it, too.)
struct Tensor {
  float* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;  // elements from one row to the next, at least cols

  constexpr float* row(std::int64_t r) const { return data + r * stride; }
  constexpr Tensor first_rows(std::int64_t count) const { return {data, count, cols, stride}; }
  constexpr Tensor row_range(std::int64_t begin, std::int64_t count) const { return {row(begin), count, cols, stride}; }
  constexpr Tensor col_range(std::int64_t begin, std::int64_t count) const {
    return {data + begin, rows, count, stride};
  }
};

// Memory of a backend, released with the object.
class Buffer {
 public:
  using Release = std::function<void(void*)>;

  Buffer() = default;
  Buffer(void* data, std::size_t bytes, Release release) : data_(data, std::move(release)), bytes_(bytes) {}

  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  std::size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

  // The buffer as a matrix of its full width.
  Tensor matrix(std::int64_t rows, std::int64_t cols) const { return {as<float>(), rows, cols, cols}; }

 private:
  std::unique_ptr<void, Release> data_{nullptr, [](void*) {}};
  std::size_t bytes_ = 0;
};

// What becomes of the products with a head: logits are `scale` times these, then soft-capped: cap tanh(x / cap).
struct LogitRule {
  float scale = 1.0f;
  float cap = 0.0f;  // 0: none

  constexpr bool changes() const { return scale != 1.0f || cap != 0.0f; }
};

// Where a weight comes from: a row-major matrix in host memory, usually inside a mapped file.
struct WeightSource {
  std::string file;  // for messages
  std::string name;
  DType type = DType::F32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const std::byte* data = nullptr;    // aligned for its elements: GGUF promises 8 bytes at least
  std::shared_ptr<const void> owner;  // keeps `data` alive
  // Whether it stays in host memory, from where a device with memory of its own reads it whenever it is used: slow, but
  // for what is seldom used, or else would not fit.
  bool on_host = false;
  LogitRule logit_rule = {};  // of a head
};

// A matrix (rows, cols) as a backend keeps it: rows are outputs, as in y = W x. Made by Backend::load.
class Weight {
 public:
  // `kept`: the type to which the backend has brought it, where that is not the file's.
  Weight(DType type, std::int64_t rows, std::int64_t cols, const LogitRule& rule = {})
      : Weight(type, type, rows, cols, rule) {}
  Weight(DType type, DType kept, std::int64_t rows, std::int64_t cols, const LogitRule& rule)
      : type_(type), kept_(kept), rows_(rows), cols_(cols), logit_rule_(rule) {}
  virtual ~Weight() = default;
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;

  DType type() const { return type_; }  // the file's
  DType kept_type() const { return kept_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  // For all who make logits of it: a matmul knows nothing of logits.
  const LogitRule& logit_rule() const { return logit_rule_; }
  // What a pass reads of it.
  std::size_t bytes() const {
    return static_cast<std::size_t>(rows_) * row_bytes(kept_, static_cast<std::size_t>(cols_));
  }

 private:
  DType type_;
  DType kept_;
  std::int64_t rows_;
  std::int64_t cols_;
  LogitRule logit_rule_;
};

}  // namespace frspec
