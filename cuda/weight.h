// Weights in device memory: packed into tiles (formats/), or rows as the file has them.
#pragma once

#include <utility>

#include "cuda/namespace.h"
#include "tensor/tensor.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

class CudaWeight final : public Weight {
 public:
  // `tiles`: of a strip of a packed weight; 0 where the rows are those of the file, or coded ones.
  CudaWeight(const WeightSource& source, DType kept, std::int64_t rows, int tiles, Buffer memory)
      : Weight(source.type, kept, rows, source.cols, source.logit_rule), tiles_(tiles), memory_(std::move(memory)) {}

  bool is_packed() const { return tiles_ > 0; }
  int tiles() const { return tiles_; }
  std::byte* data() const { return memory_.as<std::byte>(); }
  std::size_t memory_bytes() const { return memory_.bytes(); }

 private:
  int tiles_;
  Buffer memory_;
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
