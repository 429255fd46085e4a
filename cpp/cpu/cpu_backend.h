// The CPU backend: weights packed into panels (panel.h), kernels chosen at run time (kernels.h).
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/parallel.h"
#include "cpu/columns.h"
#include "cpu/kernels.h"
#include "cpu/row_chain.h"

namespace frspec::cpu {

// A packed matrix, or a table that stays in the file's form.
class CpuWeight final : public Weight {
 public:
  // Pairs of panels in `memory`, one after the other.
  CpuWeight(const WeightSource& source, std::int64_t rows, Buffer memory);
  // Rows inside `source`.
  explicit CpuWeight(const WeightSource& source);

  std::int64_t panels() const { return (rows() + kPanel - 1) / kPanel; }
  // The pair that begins with panel `first`, an even number.
  const std::byte* pair(std::int64_t first) const { return panels_ + first * panel_bytes_; }
  std::int64_t panel_bytes() const { return panel_bytes_; }
  // Of a table: its rows as the file has them.
  const std::byte* table() const { return table_; }
  // Of a packed matrix: replaces row `r`.
  void replace(std::int64_t r, const std::byte* row);
  // Row `r` as f32.
  void dequantize(std::int64_t r, float* out) const;

 private:
  Buffer memory_;
  const std::byte* panels_ = nullptr;
  std::int64_t panel_bytes_ = 0;
  std::shared_ptr<const void> owner_;
  const std::byte* table_ = nullptr;
};

// A packed matrix for each expert.
class CpuExperts final : public Weight {
 public:
  explicit CpuExperts(std::vector<std::unique_ptr<Weight>> experts)
      : Weight(experts[0]->type(), experts[0]->kept_type(),
               experts[0]->rows() * static_cast<std::int64_t>(experts.size()), experts[0]->cols(), {}),
        experts_(std::move(experts)) {}

  const Weight& operator[](std::int64_t expert) const { return *experts_[static_cast<std::size_t>(expert)]; }

 private:
  std::vector<std::unique_ptr<Weight>> experts_;
};

class CpuBackend final : public Backend, private Instruments {
 public:
  CpuBackend(const Kernels& kernels, int threads);

  // cpu_backend.cpp: set-up
  std::string description() const override;
  Instruments& instruments() override { return *this; }
  Buffer allocate(std::size_t bytes) override;
  Buffer allocate_kv(const KvShape& shape) override;
  void upload(void* to, const void* from_host, std::size_t bytes) override;
  void download(void* to_host, const void* from, std::size_t bytes) override;
  void post(int slot, const void* from, std::size_t bytes) override;
  void collect(int slot, void* to_host, std::size_t bytes) override;
  std::unique_ptr<Weight> load(const WeightSource& source) override;
  std::unique_ptr<Weight> load_table(const WeightSource& source) override;
  std::unique_ptr<Weight> load_rows(const WeightSource& source, std::span<const std::int32_t> rows) override;
  std::unique_ptr<Weight> load_experts(std::span<const WeightSource> sources) override;
  void replace_rows(Weight& weight, const WeightSource& source, std::span<const std::int32_t> places,
                    std::span<const std::int32_t> rows) override;
  std::size_t weight_bytes(const WeightSource& source, std::int64_t rows, bool is_table) const override;
  void dequantize(float* to_host, const WeightSource& source, std::int64_t row) override;

  // cpu_layers.cpp
  void embed(Tensor out, const Weight& table, const std::int32_t* ids, float scale) override;
  void copy(Tensor out, Tensor x) override;
  void gather_rows(Tensor out, Tensor x, const std::int32_t* rows) override;
  void rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) override;
  void add(Tensor x, Tensor y, const float* norm, float epsilon, float scale) override;
  void apply(const LogitRule& rule, Tensor logits) override;

  // cpu_matmul.cpp
  void matmul(const Operand& x, std::span<const Projection> projections) override;

  // cpu_experts.cpp
  void run_experts(Tensor out, Tensor x, Tensor scores, const Experts& experts) override;

  // cpu_attention.cpp
  std::size_t kv_bytes(const KvShape& shape) const override;
  void rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache, const Rows& rows) override;
  void attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule) override;
  void commit(std::span<const KvLayer> layers, const SequenceView& sequence, const VerdictView& verdict,
              const PathView& path) override;
  void copy_page(std::span<const KvLayer> layers, std::int32_t from, std::int32_t to) override;

  // cpu_delta.cpp
  void run_delta(Tensor out, const DeltaInputs& in, const DeltaRule& rule, const DeltaLayer& layer,
                 const Rows& rows) override;
  void commit_states(std::span<const DeltaLayer> layers, const SequenceView& sequence, const VerdictView& verdict,
                     int first) override;
  void copy_state(std::span<const DeltaLayer> layers, int from, int to) override;

  // cpu_heads.cpp: choosing tokens
  void top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) override;
  void sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) override;
  void head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                   const Sampling& sampling, const BestTokens* best) override;

  // cpu_draft_heads.cpp
  void head_top_k(const BestTokens& best, Tensor hidden, const HeadColumns& head, const DraftNoise* noise) override;
  void head_candidates(std::int32_t* columns, int count, Tensor hidden, const HeadColumns& head,
                       const DraftNoise* noise) override;
  void merge_top_k(const BestTokens& best, const BestTokens& other, int rows, bool noisy) override;

  // cpu_sampling.cpp: from logits that are there
  void process(Tensor logits, const Rows& rows, const std::int32_t* tokens, const SamplerChain& chain) override;
  void log_probs(float* out, Tensor logits, const std::int32_t* tokens) override;

  // cpu_tree.cpp: draft trees
  void tree_expand(const CandidatePool& pool, int level, const std::int32_t* ids, const float* log_probs) override;
  void draw_proposal(std::int32_t* token, float* log_prob, const Proposals& proposals, int level,
                     const std::int32_t* candidates, const float* log_probs, int count, const SamplerChain& chain,
                     const RejectionDraw& draw, const std::int32_t* position) override;
  void verify_rejection(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                        const SamplerChain& chain, const Proposals* proposals, const RejectionDraw& draw,
                        bool block) override;
  void map_ids(std::int32_t* ids, int count, const std::int32_t* map) override;
  void tree_select(const TreeView& tree, const CandidatePool& pool, const SequenceView& sequence) override;
  void verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) override;
  void verify_logits(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                     const SamplerChain& chain, const Sampling& draw) override;

 private:
  Buffer allocate(std::size_t bytes, bool large_pages);
  // Instruments
  void note_time(int point) override { times_[static_cast<std::size_t>(point)] = std::chrono::steady_clock::now(); }
  double seconds_between(int first_point, int second_point) override {
    const auto first = times_[static_cast<std::size_t>(first_point)];
    return std::chrono::duration<double>(times_[static_cast<std::size_t>(second_point)] - first).count();
  }
  DeviceMemory memory() override { return {}; }
  LaunchCounts launch_counts() const override { return {}; }
  // cpu_ceilings.cpp
  Arithmetic arithmetic(DType type) const override;
  double measure_reading(std::span<const Weight* const> weights) override;
  void measure_arithmetic(double* macs_per_second) override;
  // cpu_tree.cpp
  void pretend_acceptance(std::int32_t* sampled, const TreeView& tree, const Rows& rows, float probability,
                          std::uint64_t seed) override;

  // Memory that grows on first use only.
  class Scratch {
   public:
    std::byte* bytes(std::size_t count);
    float* floats(std::size_t count) { return reinterpret_cast<float*>(bytes(count * sizeof(float))); }

   private:
    std::vector<std::byte> memory_;
  };

  std::unique_ptr<Weight> pack(const WeightSource& source, std::int64_t rows, const std::int32_t* order);
  // x in the given form, in the form's scratch memory; valid until the next call for that form.
  Activations prepare(const Operand& x, Form form);
  // Columns [first, first + count) of hidden weight^T, for any number of rows; `first` is a multiple of a pair's.
  void logits_of(const Activations& x, const CpuWeight& weight, std::int64_t first, std::int64_t count, float* out,
                 std::int64_t out_stride, int worker);
  // Runs reduce(logits, stride, first column, count, chunk, worker) for every chunk of columns (columns.h).
  void for_each_chunk(const Columns& columns, const ReduceChunk& reduce);
  void for_each_chunk_of_list(const Columns& columns, const ReduceChunk& reduce);
  // Up to kAttentionRows rows of one group: what a task of attend is about, for each K/V head.
  struct RowBlock {
    Rows group;
    std::int64_t first;     // row of the pass
    std::int64_t in_group;  // the same of the group
    int rows;
    std::int32_t begin_segment, end_segment;  // that its rows see some of
  };
  const std::int32_t* find_blocks(const Rows& rows, const AttentionRule& rule);
  // One row of run_delta where its tree is walked: what it reads and leaves is in a matrix of the walk; -1: the
  // sequence's own state, or nothing.
  struct DeltaVisit {
    std::int32_t row, from, to;
  };
  // A row that is still to be visited: `free` matrices and all behind are nobody's, and whether it is the last that
  // goes on from its parent.
  struct DeltaEntry {
    std::int32_t row, from, free;
    bool is_last;
  };
  // The order in which a tree's rows are visited. Returns how many matrices the walk needs.
  int plan_walk(const Rows& tree, std::vector<DeltaVisit>& visits);
  // What top_k and sample share with their fused forms.
  void find_best(const BestTokens& best, const Columns& columns);
  void find_noisy(const BestTokens& best, float* largest, const Columns& columns, const DraftNoise& noise);
  void choose(std::int32_t* tokens, const Rows& rows, const Sampling& sampling, const Columns& columns,
              const BestTokens* best);

  const Kernels& kernels_;
  ThreadPool pool_;
  std::array<std::chrono::steady_clock::time_point, kTimePoints> times_;
  std::array<std::vector<std::byte>, kPosts> posts_;
  Scratch forms_[3];                      // by Form: the rows of x of a matmul
  std::vector<Scratch> product_scratch_;  // by worker: PanelProduct::scratch
  std::vector<Scratch> row_scratch_;      // by worker: a normed row, a chunk of logits, attention
  Scratch partial_;                       // what pieces of an operation hand to its end
  Scratch candidates_;                    // head_top_k under noise
  Scratch scores_;                        // (rows, columns) of head_candidates
  // By worker: head_candidates, merge_top_k.
  struct SelectionScratch {
    std::vector<float> values;
    std::vector<std::int32_t> columns;
  };
  std::vector<SelectionScratch> selection_;
  Scratch sums_;                                         // of 16 elements of each row, for_each_chunk_of_list
  std::vector<RowBlock> row_blocks_;                     // of attend
  Scratch lengths_;                                      // (2, rows) of attend: positions seen, and the first one
  Scratch chosen_;                                       // run_experts: who has chosen whom
  Scratch expert_rows_;                                  // run_experts: the rows of one expert on their way
  Scratch delta_rows_;                                   // run_delta: what the convolution gives, and the gates
  std::vector<std::vector<DeltaVisit>> delta_walks_;     // run_delta: by group
  std::vector<std::int32_t> delta_children_;             // plan_walk
  std::vector<DeltaEntry> delta_stack_;                  // plan_walk
  std::vector<RowChain> row_chains_;                     // by worker: process
  std::vector<std::int32_t> order_;                      // tree_select and tree_expand
  std::shared_ptr<std::atomic<std::size_t>> allocated_;  // bytes of all living buffers, which may outlive the backend
};

}  // namespace frspec::cpu
