// The backend: everything that touches model data on a device, as coarse operations.
//
// Contract of every operation (docs/architecture.md, contract 1): row r of a result depends on row r of the inputs
// only, computed in one order of accumulation, whatever the number of rows and whatever the other rows hold. Pointers
// are to the backend's memory unless the comment says "host". Nothing is allocated, and nothing waits for the device,
// except in the functions of the first group. Operations run in the order in which they were called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/sampling.h"
#include "tensor/tensor.h"

namespace frspec {

// Where the rows of one pass stand in the logical sequence: behind `*prefix` committed tokens, as a chain or a tree.
// A row's position is *prefix + depth; it sees the prefix, then the `path` of its ancestors and itself, in that order.
struct Rows {
  int count = 0;
  const std::int32_t* prefix = nullptr;  // committed tokens in the cache
  std::int32_t first_slot = 0;           // row r is stored in cache slot *prefix + first_slot + r
  const std::int32_t* depth = nullptr;   // (count); null: a chain, depth = r (and first_slot is 0). Where only tokens
                                         // are chosen, -1 stands for the last token of the prefix itself
  const std::int32_t* path = nullptr;  // (count, path_stride): slots behind the prefix, entries 0..depth; null: a chain
  int path_stride = 0;

  // Some of the rows. Not of a chain, but for its beginning.
  constexpr Rows range(int first, int number) const {
    Rows part = *this;
    part.count = number;
    if (depth != nullptr) part.depth += first;
    if (path != nullptr) part.path += std::ptrdiff_t{first} * path_stride;
    return part;
  }
};

// How keys and values are stored: f16, int8 with an f16 scale per 32 elements of a head (as Q8_0), or f32.
enum class KvType : std::uint8_t { F16, Q8_0, F32 };

struct KvShape {
  KvType type = KvType::F16;
  int heads = 0;
  int head_dim = 0;
  int capacity = 0;  // slots

  friend bool operator==(const KvShape&, const KvShape&) = default;
};

// One layer of a key/value cache: two pieces of Backend::kv_bytes, laid out as the backend likes.
struct KvLayer {
  void* keys = nullptr;
  void* values = nullptr;
  KvShape shape;
};

// Rotary embedding: precomputed angles. Pairs are (2i, 2i + 1) where interleaved (Llama in GGUF), else (i, i + half).
struct Rope {
  const float* cos = nullptr;  // (positions, dims / 2)
  const float* sin = nullptr;  // (positions, dims / 2)
  int dims = 0;                // rotated dimensions of each head, even; the rest pass unchanged
  int positions = 0;
  bool interleaved = false;
  const float* query_scale = nullptr;  // (positions) factors of rotated queries; null: none
};

// What attention does beside looking: see Backend::attend.
struct AttentionRule {
  float scale = 0.0f;
  float cap = 0.0f;              // of scores: cap tanh(score / cap); 0: none
  int window = 0;                // positions that a row sees, its own the last of them; 0: all before it
  const float* sinks = nullptr;  // (query heads) a score for each that takes its share and has no value; null: none
};

// What a gated feed-forward does with its two halves, `gate` and `up`.
enum class Activation : std::uint8_t {
  Silu,     // gate sigmoid(gate) up
  Gelu,     // gate Phi(gate) up, by the formula with tanh
  Clamped,  // g sigmoid(1.702 g) (u + 1), g = min(gate, 7), u = up clamped to -7 .. 7: gpt-oss
};

// The left side of a matmul: x, or RMS-normed x, or activated x. Made while x is brought into the form that the
// weights want, so it never passes through memory.
struct Operand {
  Tensor x;
  const float* norm = nullptr;  // (x.cols) weights: x / sqrt(mean(x^2) + epsilon) * norm
  float epsilon = 0.0f;
  const float* up = nullptr;  // as x, with its stride: x is the gate of the activation, this its other half
  Activation activation = Activation::Silu;
};

// out = x weight^T + bias, or out += that.
struct Projection {
  Tensor out;  // (rows, weight.rows)
  const Weight* weight = nullptr;
  const float* bias = nullptr;  // (weight.rows) or null
  bool accumulate = false;
};

// The feed-forwards of which each row chooses `used` by its router's logits. Matrices come from Backend::load_experts.
struct Experts {
  const Weight* gate = nullptr;      // (experts * ff, dim)
  const Weight* up = nullptr;        // (experts * ff, dim)
  const Weight* down = nullptr;      // (experts * dim, ff)
  const float* gate_bias = nullptr;  // (experts, ff) or null
  const float* up_bias = nullptr;    // (experts, ff) or null
  const float* down_bias = nullptr;  // (experts, dim) or null
  int used = 0;
  Activation activation = Activation::Silu;
};

// How a drafter looks at the noise that verification will draw with: its best tokens are those with the largest
// logit / temperature + gumbel(seed, position, token), so that its children are what the target would say if it agreed.
// The scores are the log-softmax of that over the best k.
struct DraftNoise {
  Sampling draw;                              // temperature > 0
  const std::int32_t* position = nullptr;     // device: that of the tree's root
  int offset = 1;                             // where the tokens would stand, behind it
  const std::int32_t* token_of_id = nullptr;  // the target's token for each id of the head, where they differ
  // What the target's chain will do, approximately: only tokens among the top_k best (0: all), with top_p and min_p.
  int top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
};

// The columns that a head offers to each row of hidden states: all rows of `weight`, or a list for each.
struct HeadColumns {
  const Weight* weight = nullptr;        // (columns, dim)
  const std::int32_t* ids = nullptr;     // (columns) the token of each; null: its number. Ties go to the lower column
  const std::int32_t* listed = nullptr;  // (hidden rows, count) rows of `weight`, which load_table made; ascending
  // Columns in each list; without lists: only the first so many rows of `weight`, a multiple of 64 (0: all).
  int count = 0;
};

// The best tokens after some rows: (rows, k) each, best first.
struct BestTokens {
  std::int32_t* ids = nullptr;
  float* scores = nullptr;    // logit - log_sum, never above 0
  float* log_sums = nullptr;  // (rows) of all columns' logits; under noise, of the best k's. Null: nobody asks
  int k = 0;
};

// The growing side of a draft tree (EAGLE-2): every candidate of every level. Candidates of level 0 come first
// (branch of them), then branch * branch for each further level; parents are candidate indices, -1 for the root.
struct CandidatePool {
  int branch = 0;  // k: frontier nodes per level, children per node
  int levels = 0;
  std::int32_t* tokens = nullptr;           // (capacity)
  std::int32_t* parents = nullptr;          // (capacity)
  float* scores = nullptr;                  // (capacity) cumulative log-probability
  std::int32_t* frontier = nullptr;         // (branch) candidate indices
  std::int32_t* frontier_tokens = nullptr;  // (branch)
  std::int32_t* frontier_rows = nullptr;    // (branch) row of the parent in the previous frontier's pass
  std::int32_t* frontier_path = nullptr;   // (branch, levels) draft cache slots behind the prefix, of each node's chain
  std::int32_t* previous_path = nullptr;   // (branch, levels) the same of the previous frontier
  std::int32_t* frontier_depth = nullptr;  // (branch)

  constexpr int capacity() const { return levels > 0 ? branch + branch * branch * (levels - 1) : 0; }
  constexpr int base(int level) const { return level == 0 ? 0 : branch + branch * branch * (level - 1); }
};

// A draft tree as it is verified. `parents` is the only truth (contract 4); depth and path derive from it.
struct TreeView {
  int size = 0;                     // nodes, the root included
  int max_depth = 0;                // of any node; the root has depth 0
  std::int32_t* tokens = nullptr;   // (size)
  std::int32_t* parents = nullptr;  // (size) -1 for the root, which is node 0; parents come before their children
  std::int32_t* depth = nullptr;    // (size)
  std::int32_t* path = nullptr;     // (size, max_depth + 1): nodes from the root down to the node itself
  // (size) of a grown tree: the place of each node but the root by its score, from 0, the best first. Null: unknown.
  std::int32_t* ranks = nullptr;
};

// What verification found: `count` tokens become part of the text.
struct VerdictView {
  std::int32_t* count = nullptr;   // (1) accepted drafts + 1
  std::int32_t* nodes = nullptr;   // (max_depth + 1) the tree nodes whose K/V and hidden states stay: root first
  std::int32_t* tokens = nullptr;  // (max_depth + 1) the target's token after each of these nodes
  std::int32_t* ranks = nullptr;   // (max_depth + 1) the nodes' TreeView::ranks, where the tree has some (record)
};

// A verdict whose length the host need not know: as many entries as a path can have, those that are missing 0.
struct PathView {
  std::int32_t* nodes = nullptr;   // (rows)
  std::int32_t* tokens = nullptr;  // (rows)
  std::int32_t* last = nullptr;    // (1) the last entry that is there
};

// The arithmetic in which a weight type is multiplied.
enum class Arithmetic : std::uint8_t { Int8, Bf16, F32, F16 };
inline constexpr int kArithmetics = 4;

inline constexpr int kTimePoints = 64;
inline constexpr int kPosts = 2;

// Bytes of a device's memory. All 0: it is the host's own.
struct DeviceMemory {
  std::size_t free = 0;
  std::size_t total = 0;
  std::size_t reserved = 0;  // of what is free: that the backend itself will want
};

// How a device that is given its work as lists of commands got it so far.
struct LaunchCounts {
  std::int64_t commands = 0;        // that operations gave
  std::int64_t launches = 0;        // of single commands
  std::int64_t graph_launches = 0;  // of lists as a whole
  std::int64_t loop_launches = 0;   // those of them that are loops
  std::int64_t graphs_made = 0;
  std::int64_t values_changed = 0;  // commands in graphs that got other values
};

class Backend {
 public:
  virtual ~Backend() = default;

  // --- Set-up and transfer ---
  virtual std::string description() const = 0;     // "cpu (avx2, 8 threads)"
  virtual Buffer allocate(std::size_t bytes) = 0;  // zeroed, 64-byte aligned; throws OutOfMemory
  virtual void upload(void* to, const void* from_host, std::size_t bytes) = 0;
  virtual void download(void* to_host, const void* from, std::size_t bytes) = 0;  // waits for what was called before
  // The same in two parts: the copy is on its way to place `slot`, below kPosts; collect waits for it, and for nothing
  // that was called behind it.
  virtual void post(int slot, const void* from, std::size_t bytes) = 0;
  virtual void collect(int slot, void* to_host, std::size_t bytes) = 0;
  // A loop: the same operations several times, one behind the other, without the host. What is called behind begin_loop
  // is only noted, up to loop(), which starts it: the device does it `turns` times, and behind each turn sends the
  // bytes at `from` to the host. Every turn has the same values: what changes must be in device memory. Nothing that
  // waits may be called in between.
  virtual int most_turns() { return 0; }  // that may be under way; 0: the device cannot
  virtual void begin_loop() { has_no_loops(); }
  virtual void loop(int /*turns*/, const void* /*from*/, std::size_t /*bytes*/) { has_no_loops(); }
  virtual void loop_on(int /*turns*/) { has_no_loops(); }  // so many more turns, behind those under way
  // Waits for the first turn that was not collected yet, and for nothing behind it; seconds_between is about it then.
  virtual void collect_turn(void* /*to_host*/, std::size_t /*bytes*/) { has_no_loops(); }
  // Nobody will collect the turns under way: those that have not begun are left out. A loop that was not started yet is
  // forgotten.
  virtual void end_loop() {}
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
  virtual DeviceMemory memory() = 0;
  virtual LaunchCounts launch_counts() const { return {}; }
  // Bytes that the keys (or the values) of a layer take.
  virtual std::size_t kv_bytes(const KvShape& shape) const = 0;
  // Row `row` of a source of any loadable type as f32, into host memory.
  virtual void dequantize(float* to_host, const WeightSource& source, std::int64_t row) = 0;

  // Notes the time when all that was called before is done, as number `point`, below kTimePoints.
  virtual void note_time(int point) = 0;
  // Between two noted times; only after a download or a collected post that was called behind both.
  virtual double seconds_between(int first_point, int second_point) = 0;

  virtual Arithmetic arithmetic(DType type) const = 0;
  // The two ceilings, measured: reads the given weights once, by all threads (bytes per second); and multiply-adds per
  // second in each arithmetic (kArithmetics of them; 0 where no weight is multiplied so), which takes about a second.
  virtual double measure_reading(std::span<const Weight* const> weights) = 0;
  virtual void measure_arithmetic(double* macs_per_second) = 0;

  // --- Layers ---
  virtual void embed(Tensor out, const Weight& table, const std::int32_t* ids, float scale) = 0;
  virtual void copy(Tensor out, Tensor x) = 0;
  virtual void gather_rows(Tensor out, Tensor x, const std::int32_t* rows) = 0;         // out[i] = x[rows[i]]
  virtual void rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) = 0;  // out may be x
  // x += scale * y, where there are weights: scale * RMS-normed y.
  virtual void add(Tensor x, Tensor y, const float* norm, float epsilon, float scale) = 0;
  virtual void matmul(const Operand& x, std::span<const Projection> projections) = 0;
  // Products with a head become its logits.
  virtual void apply(const LogitRule& rule, Tensor logits) = 0;
  // out[r] = the outputs of the experts with the row's largest `scores` (rows, experts), weighted by the softmax over
  // these scores alone; ties go to the lower expert. They are added in the order of the experts. One that no row has
  // chosen is not read.
  virtual void run_experts(Tensor out, Tensor x, Tensor scores, const Experts& experts) = 0;
  // Rotates the heads of q and k in place by each row's position and stores k and v in the cache.
  virtual void rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache,
                               const Rows& rows) = 0;
  // out[r] = softmax(scale q[r] K^T) V per head, over the logical sequence of row r or the last `window` positions of
  // it; query heads share K/V heads. A position is the number of those before it along the row's own path.
  virtual void attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule) = 0;
  // Moves the accepted rows of a tree pass to their place: slot prefix + nodes[i] -> prefix + i. The caller advances
  // *prefix afterwards.
  virtual void compact(std::span<const KvLayer> layers, const std::int32_t* prefix, const VerdictView& verdict) = 0;
  virtual void advance(std::int32_t* prefix, const std::int32_t* count) = 0;  // *prefix += *count

  // --- Choosing tokens ---
  // The k best columns of each row, best first, ties to the lower column: ids (rows, k), log-softmax (rows, k), never
  // above 0. `column_ids` maps columns to token ids (null: they are the ids); it must be ascending.
  virtual void top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) = 0;
  // tokens[r] = the token after row r, at position *prefix + depth + 1; ties go to the lower id. It is -1 where the
  // best value is not finite: overflow in the model, which the caller must report.
  virtual void sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) = 0;

  // Changes logits (rows.count, V) as the chain says. `tokens`: the ids of the whole pass that the rows belong to,
  // which their paths point into. A row whose best value is not finite is left alone, or holds nothing else than
  // -infinity.
  virtual void process(Tensor logits, const Rows& rows, const std::int32_t* tokens, const SamplerChain& chain) = 0;
  // out[r] = log-softmax(logits[r])[tokens[r]].
  virtual void log_probs(float* out, Tensor logits, const std::int32_t* tokens) = 0;

  // The best tokens by the logits hidden weight^T, which are not kept; with noise (null: none), the best under it.
  virtual void head_top_k(const BestTokens& best, Tensor hidden, const HeadColumns& head, const DraftNoise* noise) = 0;
  // The `count` best columns of each row, ascending: (rows, count). With noise, the best under it. NaN counts as
  // -infinity, ties go to the lower column. `head` is no list.
  virtual void head_candidates(std::int32_t* columns, int count, Tensor hidden, const HeadColumns& head,
                               const DraftNoise* noise) = 0;
  // Makes of `best` the best of itself and `other`, (rows, k) both with their sums: what two heads say together. A
  // token that both name counts once. `noisy`: whether both were chosen under noise.
  virtual void merge_top_k(const BestTokens& best, const BestTokens& other, int rows, bool noisy) = 0;
  // With `best` (null: nobody asks) its ids become those of the k <= 64 largest logits of each row, without
  // noise (-1 where there are not so many numbers).
  virtual void head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                           const Sampling& sampling, const BestTokens* best) = 0;

  // --- Draft trees ---
  // Adds the children (rows, branch) of the frontier (level 0: of the root) as candidates of `level` and makes the best
  // `branch` of them the next frontier; its nodes will be stored in draft cache slots level * branch + 0, 1, ...
  virtual void tree_expand(const CandidatePool& pool, int level, const std::int32_t* ids, const float* log_probs) = 0;
  // For rejection sampling: makes the distribution q of a level from `count` candidates (ids, log-probabilities; best
  // first) by the chain's filters and temperature, and draws *token from it.
  virtual void draw_proposal(std::int32_t* token, float* log_prob, const Proposals& proposals, int level,
                             const std::int32_t* candidates, const float* log_probs, int count,
                             const SamplerChain& chain, const RejectionDraw& draw, const std::int32_t* position) = 0;
  // ids[i] = map[ids[i]].
  virtual void map_ids(std::int32_t* ids, int count, const std::int32_t* map) = 0;
  // The root and the best size - 1 candidates, parents first; ties go to the earlier candidate.
  virtual void tree_select(const TreeView& tree, const CandidatePool& pool, const std::int32_t* root_token) = 0;
  // Walks down from the root while the target's token after a node (`sampled`, one per node) is one of its children.
  virtual void verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) = 0;
  // The same from the logits (tree.size, V) of the nodes, which are `rows`: the chain changes the rows that the
  // walk reaches, at least, and each token is drawn by `draw`.
  virtual void verify_logits(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                             const SamplerChain& chain, const Sampling& draw) = 0;
  // Rejection sampling along a chain (parents[i] = i - 1) instead of the keyed rule: a draft x is kept with probability
  // min(1, p[x] / q[x]), else the residual max(p - q, 0) gives the token. `block`: block verification (Sun et al.,
  // 2403.10444, Algorithm 2), which judges the whole chain. p is the softmax of the processed logits.
  virtual void verify_rejection(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                                const SamplerChain& chain, const Proposals* proposals, const RejectionDraw& draw,
                                bool block) = 0;
  // For timing with models that agree on nothing: replaces `sampled` so that, independently at every node, the token is
  // that of the node's best child with the given probability, else none of its children's. Keyed by seed and position.
  virtual void pretend_acceptance(std::int32_t* sampled, const TreeView& tree, const Rows& rows, float probability,
                                  std::uint64_t seed) = 0;
  // history[*prefix + i] = the token of verdict.nodes[i]: the text as far as it has been processed. And where both have
  // ranks, verdict.ranks[i] = that node's.
  virtual void record(std::int32_t* history, const std::int32_t* prefix, const TreeView& tree,
                      const VerdictView& verdict) = 0;
  // Fills `rows` entries of a path from a verdict. A token that is none (-1, of which the host will hear in the
  // verdict) becomes token 0, here and in take_last: it is looked up in tables.
  virtual void fill_path(const PathView& path, int rows, const VerdictView& verdict) = 0;
  // *token = the last of verdict.tokens: the root of the next tree.
  virtual void take_last(std::int32_t* token, const VerdictView& verdict) = 0;

 private:
  [[noreturn]] static void has_no_loops();
};

// "cpu", unless the environment variable FRSPEC_DEVICE names another one.
std::string default_device();

struct BackendOptions {
  std::string device = default_device();  // one of backend_names(); "cuda:1" is the second GPU
  int threads = 0;                        // CPU threads; 0: one per available core
};

// Makes a backend; throws InvalidInput for an unknown name or one that this build or machine lacks, saying why.
std::unique_ptr<Backend> make_backend(const BackendOptions& options);
std::vector<std::string> backend_names();

}  // namespace frspec
