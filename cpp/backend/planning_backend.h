// A backend that computes nothing and allocates nothing, but counts: what a model would take of a device's memory is
// found by making it on this one.
#pragma once

#include "backend/backend.h"

namespace frspec {

class PlanningBackend final : public Backend {
 public:
  // Sizes are those of `device`.
  explicit PlanningBackend(Backend& device) : device_(device) {}

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
  DeviceMemory memory() override { return device_.memory(); }
  void dequantize(float* to_host, const WeightSource& source, std::int64_t row) override;
  void note_time(int) override {}
  double seconds_between(int, int) override { return 0.0; }
  Arithmetic arithmetic(DType type) const override { return device_.arithmetic(type); }

  // Nothing below is ever called while a model is made.
  double measure_reading(std::span<const Weight* const>) override { refuse(); }
  void measure_arithmetic(double*) override { refuse(); }
  void embed(Tensor, const Weight&, const std::int32_t*, float) override { refuse(); }
  void copy(Tensor, Tensor) override { refuse(); }
  void gather_rows(Tensor, Tensor, const std::int32_t*) override { refuse(); }
  void rms_norm(Tensor, Tensor, const float*, float) override { refuse(); }
  void add(Tensor, Tensor, const float*, float, float) override { refuse(); }
  void matmul(const Operand&, std::span<const Projection>) override { refuse(); }
  void apply(const LogitRule&, Tensor) override { refuse(); }
  void run_experts(Tensor, Tensor, Tensor, const Experts&) override { refuse(); }
  void rope_and_append(Tensor, Tensor, Tensor, const Rope&, const KvLayer&, const Rows&) override { refuse(); }
  void attend(Tensor, Tensor, const KvLayer&, const Rows&, const AttentionRule&) override { refuse(); }
  void compact(std::span<const KvLayer>, const std::int32_t*, const VerdictView&) override { refuse(); }
  void advance(std::int32_t*, const std::int32_t*) override { refuse(); }
  void top_k(std::int32_t*, float*, int, Tensor, const std::int32_t*) override { refuse(); }
  void sample(std::int32_t*, Tensor, const Rows&, const Sampling&) override { refuse(); }
  void process(Tensor, const Rows&, const std::int32_t*, const SamplerChain&) override { refuse(); }
  void log_probs(float*, Tensor, const std::int32_t*) override { refuse(); }
  void head_top_k(const BestTokens&, Tensor, const HeadColumns&, const DraftNoise*) override { refuse(); }
  void head_candidates(std::int32_t*, int, Tensor, const HeadColumns&, const DraftNoise*) override { refuse(); }
  void merge_top_k(const BestTokens&, const BestTokens&, int, bool) override { refuse(); }
  void head_sample(std::int32_t*, Tensor, const Weight&, const Rows&, const Sampling&, const BestTokens*) override {
    refuse();
  }
  void tree_expand(const CandidatePool&, int, const std::int32_t*, const float*) override { refuse(); }
  void draw_proposal(std::int32_t*, float*, const Proposals&, int, const std::int32_t*, const float*, int,
                     const SamplerChain&, const RejectionDraw&, const std::int32_t*) override {
    refuse();
  }
  void map_ids(std::int32_t*, int, const std::int32_t*) override { refuse(); }
  void tree_select(const TreeView&, const CandidatePool&, const std::int32_t*) override { refuse(); }
  void verify(const VerdictView&, const TreeView&, const std::int32_t*) override { refuse(); }
  void verify_logits(const VerdictView&, const TreeView&, Tensor, const Rows&, const SamplerChain&,
                     const Sampling&) override {
    refuse();
  }
  void verify_rejection(const VerdictView&, const TreeView&, Tensor, const Rows&, const SamplerChain&, const Proposals*,
                        const RejectionDraw&, bool) override {
    refuse();
  }
  void pretend_acceptance(std::int32_t*, const TreeView&, const Rows&, float, std::uint64_t) override { refuse(); }
  void record(std::int32_t*, const std::int32_t*, const TreeView&, const VerdictView&) override { refuse(); }
  void fill_path(const PathView&, int, const VerdictView&) override { refuse(); }
  void post(int, const void*, std::size_t) override { refuse(); }
  void collect(int, void*, std::size_t) override { refuse(); }
  void take_last(std::int32_t*, const VerdictView&) override { refuse(); }

 private:
  [[noreturn]] static void refuse();
  std::unique_ptr<Weight> count(const WeightSource& source, std::int64_t rows, bool is_table);

  Backend& device_;
  std::size_t weights_ = 0, buffers_ = 0, chosen_ = 0;
};

}  // namespace frspec
