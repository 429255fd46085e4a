// The CPU backend: weights stay in GGUF rows; 16 of them at a time are dequantized into cache, shared by all rows of x.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/parallel.h"
#include "cpu/kernels.h"

namespace frspec::cpu {

// Rows in GGUF format, inside the mapped file where possible.
class CpuWeight final : public Weight {
 public:
  // Rows inside `source`.
  explicit CpuWeight(const WeightSource& source);
  // Rows of its own.
  CpuWeight(DType type, std::int64_t rows, std::int64_t cols, std::vector<std::byte> bytes);

  const std::byte* row(std::int64_t r) const { return data_ + r * row_bytes_; }

 private:
  std::vector<std::byte> owned_;
  std::shared_ptr<const void> owner_;
  const std::byte* data_;
  std::int64_t row_bytes_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, int threads);

  // cpu_backend.cpp: set-up
  std::string description() const override;
  Buffer allocate(std::size_t bytes) override;
  void upload(void* to, const void* from_host, std::size_t bytes) override;
  void download(void* to_host, const void* from, std::size_t bytes) override;
  std::unique_ptr<Weight> load(const WeightSource& source) override;
  std::unique_ptr<Weight> load_rows(const WeightSource& source, std::span<const std::int32_t> rows) override;
  void dequantize(float* to_host, const WeightSource& source, std::int64_t row) override;

  // cpu_layers.cpp
  void embed(Tensor out, const Weight& table, const std::int32_t* ids) override;
  void copy(Tensor out, Tensor x) override;
  void gather_rows(Tensor out, Tensor x, const std::int32_t* rows) override;
  void rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) override;
  void matmul(Tensor x, std::span<const Projection> projections) override;
  void swiglu(Tensor gate, Tensor up) override;
  void rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache, const Rows& rows) override;
  void attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, float scale) override;
  void compact(std::span<const KvLayer> layers, const std::int32_t* prefix, const VerdictView& verdict) override;
  void advance(std::int32_t* prefix, const std::int32_t* count) override;

  // cpu_tree.cpp: choosing tokens, draft trees
  void top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) override;
  void sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) override;
  void tree_expand(const CandidatePool& pool, int level, const std::int32_t* ids, const float* log_probs) override;
  void tree_select(const TreeView& tree, const CandidatePool& pool, const std::int32_t* root_token) override;
  void verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) override;
  void take_last(std::int32_t* token, const VerdictView& verdict) override;

 private:
  // Scratch of worker `worker`: at least what the largest loaded weight and 256-wide heads need.
  float* scratch(int worker, std::size_t floats);
  void check_source(const WeightSource& source);

  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<std::vector<float>> scratch_;              // per worker; grows on first use only
  std::vector<std::int32_t> order_;                      // tree_select and tree_expand
  std::shared_ptr<std::atomic<std::size_t>> allocated_;  // bytes of all living buffers, which may outlive the backend
};

}  // namespace frspec::cpu
