// The CUDA backend: weights repacked for the tensor cores (weight.h), every operation a few kernels on one stream,
// recorded and launched as graphs (command_list.h). Pointers in device memory are never followed on the host.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/parallel.h"
#include "cuda/choosing.h"
#include "cuda/command_list.h"
#include "cuda/prepare.h"
#include "cuda/runtime.h"
#include "cuda/weight.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

class CudaBackend final : public Backend, private Instruments {
 public:
  // `name` and `threads` (of the host, which check weights): as BackendOptions has them.
  CudaBackend(std::string name, std::unique_ptr<Runtime> runtime, int threads);

  // cuda_backend.cu: set-up
  std::string description() const override;
  Instruments& instruments() override { return *this; }
  Buffer allocate(std::size_t bytes) override;
  void upload(void* to, const void* from_host, std::size_t bytes) override;
  void download(void* to_host, const void* from, std::size_t bytes) override;
  void post(int slot, const void* from, std::size_t bytes) override;
  void collect(int slot, void* to_host, std::size_t bytes) override;

  // weight.cu: weights
  std::unique_ptr<Weight> load(const WeightSource& source) override;
  std::unique_ptr<Weight> load_table(const WeightSource& source) override;
  std::unique_ptr<Weight> load_rows(const WeightSource& source, std::span<const std::int32_t> rows) override;
  void replace_rows(Weight& weight, const WeightSource& source, std::span<const std::int32_t> places,
                    std::span<const std::int32_t> rows) override;
  std::size_t weight_bytes(const WeightSource& source, std::int64_t rows, bool is_table) const override;
  void dequantize(float* to_host, const WeightSource& source, std::int64_t row) override;
  void embed(Tensor out, const Weight& table, const std::int32_t* ids, float scale) override;

  // layers.cu
  void copy(Tensor out, Tensor x) override;
  void gather_rows(Tensor out, Tensor x, const std::int32_t* rows) override;
  void rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) override;
  void add(Tensor x, Tensor y, const float* norm, float epsilon, float scale) override;
  void apply(const LogitRule& rule, Tensor logits) override;

  // matmul.cu
  void matmul(const Operand& x, std::span<const Projection> projections) override;

  // experts.cu
  std::unique_ptr<Weight> load_experts(std::span<const WeightSource> sources) override;
  void run_experts(Tensor out, Tensor x, Tensor scores, const Experts& experts) override;

  // attention.cu, kv_cache.cu
  std::size_t kv_bytes(const KvShape& shape) const override;
  void rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache, const Rows& rows) override;
  void attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule) override;
  void commit(std::span<const KvLayer> layers, const SequenceView& sequence, const VerdictView& verdict,
              const PathView& path) override;
  void copy_page(std::span<const KvLayer> layers, std::int32_t from, std::int32_t to) override;

  // delta.cu
  void run_delta(Tensor out, const DeltaInputs& in, const DeltaRule& rule, const DeltaLayer& layer,
                 const Rows& rows) override;
  void commit_states(std::span<const DeltaLayer> layers, const SequenceView& sequence, const VerdictView& verdict,
                     int first) override;
  void copy_state(std::span<const DeltaLayer> layers, int from, int to) override;

  // choosing.cu: tokens from logits; heads.cu: from heads
  void top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) override;
  void sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) override;
  void log_probs(float* out, Tensor logits, const std::int32_t* tokens) override;
  void head_top_k(const BestTokens& best, Tensor hidden, const HeadColumns& head, const DraftNoise* noise) override;
  void head_candidates(std::int32_t* columns, int count, Tensor hidden, const HeadColumns& head,
                       const DraftNoise* noise) override;
  void merge_top_k(const BestTokens& best, const BestTokens& other, int rows, bool noisy) override;
  void head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                   const Sampling& sampling, const BestTokens* best) override;

  // chain.cu: the sampler chain
  void process(Tensor logits, const Rows& rows, const std::int32_t* tokens, const SamplerChain& chain) override;

  // tree.cu: draft trees
  void tree_expand(const CandidatePool& pool, int level, const std::int32_t* ids, const float* log_probs) override;
  void map_ids(std::int32_t* ids, int count, const std::int32_t* map) override;
  void tree_select(const TreeView& tree, const CandidatePool& pool, const SequenceView& sequence) override;
  void verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) override;
  void verify_logits(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                     const SamplerChain& chain, const Sampling& draw) override;

  // rejection.cu, proposal.cu: rejection sampling along chains
  void draw_proposal(std::int32_t* token, float* log_prob, const Proposals& proposals, int level,
                     const std::int32_t* candidates, const float* log_probs, int count, const SamplerChain& chain,
                     const RejectionDraw& draw, const std::int32_t* position) override;
  void verify_rejection(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                        const SamplerChain& chain, const Proposals* proposals, const RejectionDraw& draw,
                        bool block) override;

 private:
  // Instruments
  void note_time(int point) override { device_->commands.note_time(point); }
  double seconds_between(int first_point, int second_point) override {
    return device_->runtime->seconds_between(first_point, second_point);
  }
  DeviceMemory memory() override;
  LaunchCounts launch_counts() const override { return device_->commands.counts(); }
  // ceilings.cu
  Arithmetic arithmetic(DType type) const override;
  double measure_reading(std::span<const Weight* const> weights) override;
  void measure_arithmetic(double* macs_per_second) override;
  // tree.cu
  void pretend_acceptance(std::int32_t* sampled, const TreeView& tree, const Rows& rows, float probability,
                          std::uint64_t seed) override;

  // Device memory that grows on first use only. What it held is lost when it grows.
  class Scratch {
   public:
    explicit Scratch(CudaBackend& backend) : backend_(backend) {}
    template <class T>
    T* take(std::size_t count) {
      return static_cast<T*>(bytes(count * sizeof(T)));
    }

   private:
    void* bytes(std::size_t count);

    CudaBackend& backend_;
    Buffer memory_;
  };

  template <class... Parameters, class... Values>
  void launch(const char* name, void (*kernel)(Parameters...), Grid grid, int threads, std::size_t shared_bytes,
              const Values&... values) {
    device_->commands.launch(name, kernel, grid, threads, shared_bytes, values...);
  }

  // The logits of the columns that a head offers, in scratch memory: (hidden.rows, columns). Column c of a row with a
  // list is the list's c-th. The same bits as matmul's, for the same row of the weight. Valid until the next call.
  Tensor head_logits(Tensor hidden, const HeadColumns& head);

  std::string name_;
  ThreadPool pool_;  // of the host: checks weights
  // Shared with all buffers, which may outlive the backend, and which other threads may drop while it works: their
  // memory is released when the backend wants some, or with the last of them.
  struct Driver {
    explicit Driver(std::unique_ptr<Runtime> owned) : runtime(std::move(owned)), commands(*runtime) {}
    ~Driver() { release_unused(); }
    Buffer own(void* memory, std::size_t bytes, bool pinned, std::shared_ptr<Driver> self);
    void release_unused();

    std::unique_ptr<Runtime> runtime;
    CommandList commands;

   private:
    std::mutex mutex_;                                 // of what follows
    std::vector<std::pair<void*, bool>> unused_ = {};  // and whether it is pinned
  };
  std::shared_ptr<Driver> device_;

  // weight.cu
  Buffer weight_memory(std::size_t bytes, bool on_host);
  const std::byte* device_rows(const WeightSource& source, const std::int32_t* rows, std::int64_t first,
                               std::int64_t count, std::vector<std::byte>& room);
  void check_rows(const WeightSource& source, const std::int32_t* rows, std::int64_t first, std::int64_t count);
  void store_rows(const CudaWeight& weight, const WeightSource& source, const std::int32_t* rows,
                  const std::int32_t* places, std::int64_t first, std::int64_t count);
  std::unique_ptr<Weight> make_weight(const WeightSource& source, bool packed, std::int64_t count,
                                      const std::int32_t* rows);
  Scratch staging_{*this};  // rows as the file has them
  Scratch places_{*this};

  // prepare.cu, matmul.cu
  struct Product {
    Tensor out;  // (rows of x, the first columns of x weight^T)
    const CudaWeight* weight = nullptr;
    const float* bias = nullptr;
    bool accumulate = false;
  };
  static constexpr std::size_t kMostProducts = 8;  // of one x
  PreparedRows prepare(const Operand& x, Form form);
  void multiply(const Operand& x, std::span<const Product> products);
  void multiply_packed(const PreparedRows& x, std::span<const Product> products);
  Scratch prepared_[kForms] = {Scratch(*this), Scratch(*this), Scratch(*this)};
  Scratch partial_{*this};   // sums of slices
  Scratch counters_{*this};  // of slices that have arrived; zero between launches
  Scratch logits_{*this};    // of head_logits
  Scratch experts_{*this};   // of run_experts: choices, and pairs of rows and experts on their way

  // attention.cu
  void attend_sequence(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule);
  Scratch attention_scratch_{*this};

  // delta.cu
  Scratch delta_rows_{*this};   // of a pass, behind the convolution, and their gates
  Scratch delta_order_{*this};  // in which the rows of a tree are visited
  Scratch delta_walk_{*this};   // matrices on its way

  // choosing.cu, heads.cu, chain.cu
  void find_best(const BestTokens& best, float* largest, const Columns& columns, const Noise& noise);
  void choose(std::int32_t* tokens, Tensor logits, const Noise& noise, std::int32_t* runners, int k);
  Scratch choosing_{*this};          // what the chunks of rows leave to those that merge them
  Scratch choosing_arrived_{*this};  // blocks of each row that are done: zero between launches
  Scratch noisy_{*this};             // tokens that noise is drawn for
  Scratch scores_{*this};            // of all columns that candidates are chosen from
  Scratch counts_{*this};            // of tokens: zero between launches

  // tree.cu
  Scratch walked_{*this};  // the target's tokens of all nodes

  // rejection.cu
  Scratch rejection_parts_{*this}, rejection_results_{*this}, rejection_arrived_{*this};

  // ceilings.cu
  Scratch measured_{*this};
  bool has_read_ = false;  // weights, to measure it
};

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
