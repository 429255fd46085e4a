// A device's memory and the weights that lie in it: all that models, heads and caches need while they are made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tensor/tensor.h"

namespace frspec {

struct KvShape;

class Device {
 public:
  virtual ~Device() = default;

  virtual std::string description() const = 0;     // "cpu (avx2, 8 threads)"
  virtual Buffer allocate(std::size_t bytes) = 0;  // zeroed, 64-byte aligned; throws OutOfMemory
  virtual void upload(void* to, const void* from_host, std::size_t bytes) = 0;
  virtual void download(void* to_host, const void* from, std::size_t bytes) = 0;  // waits for what was called before
  void wait() { download(nullptr, nullptr, 0); }  // until all that was called before is done

  // Keeps a weight in the form the matmuls want. Values that are not finite are an error that names the tensor.
  virtual std::unique_ptr<Weight> load(const WeightSource& source) = 0;
  // The same for a table whose rows are picked one by one, by embed() or HeadColumns::listed, and that no matmul reads:
  // it may stay where it is.
  virtual std::unique_ptr<Weight> load_table(const WeightSource& source) = 0;
  // The given rows of a source, in the given order, in the same format: a head subset.
  virtual std::unique_ptr<Weight> load_rows(const WeightSource& source, std::span<const std::int32_t> rows) = 0;
  // Row places[i] of a weight made by load_rows becomes row rows[i] of the source it was made from.
  virtual void replace_rows(Weight& weight, const WeightSource& source, std::span<const std::int32_t> places,
                            std::span<const std::int32_t> rows) = 0;
  // One matrix for each expert, all of one shape and type, as one weight for run_experts.
  virtual std::unique_ptr<Weight> load_experts(std::span<const WeightSource> sources) = 0;
  // Bytes of the device that so many rows of a source will take: by load and load_rows, or by load_table.
  virtual std::size_t weight_bytes(const WeightSource& source, std::int64_t rows, bool is_table) const = 0;
  // Bytes that the keys (or the values) of a layer take.
  virtual std::size_t kv_bytes(const KvShape& shape) const = 0;
  // Memory for them, of which a short text will touch a little. A backend in front of another one passes it on.
  virtual Buffer allocate_kv(const KvShape& shape) { return allocate(kv_bytes(shape)); }
  // Row `row` of a source of any loadable type as f32, into host memory.
  virtual void dequantize(float* to_host, const WeightSource& source, std::int64_t row) = 0;
};

}  // namespace frspec
