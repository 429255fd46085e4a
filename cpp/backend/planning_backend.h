// A backend that computes nothing and allocates nothing, but counts: what a model would take of a device's memory is
// found by making it on this one. It has no operations.
#pragma once

#include "backend/backend.h"

namespace frspec {

class PlanningBackend final : public Backend {
 public:
  // Sizes are those of `device`.
  explicit PlanningBackend(Backend& device) : Backend(device.capabilities()), device_(device) {}

  std::size_t weight_bytes() const { return weights_; }     // of everything that was loaded
  std::size_t buffer_bytes() const { return buffers_; }     // of everything that was allocated
  std::size_t row_bytes_chosen() const { return chosen_; }  // of the weights: those that load_rows picked

  std::string description() const override { return "plan of " + device_.description(); }
  Buffer allocate(std::size_t bytes) override;
  void upload(void*, const void*, std::size_t) override {}
  void download(void* to_host, const void* from, std::size_t bytes) override;
  std::unique_ptr<Weight> load(const WeightSource& source) override;
  std::unique_ptr<Weight> load_table(const WeightSource& source) override;
  std::unique_ptr<Weight> load_rows(const WeightSource& source, std::span<const std::int32_t> rows) override;
  std::unique_ptr<Weight> load_experts(std::span<const WeightSource> sources) override;
  void replace_rows(Weight&, const WeightSource&, std::span<const std::int32_t>,
                    std::span<const std::int32_t>) override {}
  std::size_t weight_bytes(const WeightSource& source, std::int64_t rows, bool is_table) const override {
    return device_.weight_bytes(source, rows, is_table);
  }
  std::size_t kv_bytes(const KvShape& shape) const override { return device_.kv_bytes(shape); }
  void dequantize(float* to_host, const WeightSource& source, std::int64_t row) override {
    device_.dequantize(to_host, source, row);
  }

 private:
  std::unique_ptr<Weight> count(const WeightSource& source, std::int64_t rows, bool is_table);

  Device& device_;
  std::size_t weights_ = 0, buffers_ = 0, chosen_ = 0;
};

}  // namespace frspec
