// The backend: everything that touches model data on a device, as coarse operations.
//
// Contract of every operation (docs/architecture.md, contract 1): row r of a result depends on row r of the inputs
// only, computed in one order of accumulation, whatever the number of rows and whatever the other rows hold. Pointers
// are to the backend's memory unless the comment says "host". Nothing is allocated, and nothing waits for the device,
// except in what Device has and in collect(). Operations run in the order in which they were called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/device.h"
#include "backend/instruments.h"
#include "backend/rows.h"
#include "backend/sampling.h"
#include "tensor/tensor.h"

namespace frspec {

// How keys and values are stored: f16, int8 with an f16 scale per 32 elements of a head (as Q8_0), or f32.
enum class KvType : std::uint8_t { F16, Q8_0, F32 };

struct KvShape {
  KvType type = KvType::F16;
  int heads = 0;
  int head_dim = 0;
  int capacity = 0;  // slots, in whole pages

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
  Sigmoid,  // sigmoid(gate) up: of an attention's output
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

// A gated delta layer: `value_heads` recurrences, each with a matrix of head_dim keys x head_dim values. Value head n
// listens to key head n % key_heads.
struct DeltaShape {
  int key_heads = 0;
  int value_heads = 0;
  int head_dim = 0;  // a multiple of kDeltaUnit
  int taps = 0;      // rows that the convolution sees, the row's own among them

  constexpr std::int64_t key_dim() const { return std::int64_t{key_heads} * head_dim; }
  constexpr std::int64_t value_dim() const { return std::int64_t{value_heads} * head_dim; }
  constexpr std::int64_t channels() const { return 2 * key_dim() + value_dim(); }  // queries, keys, values
  constexpr std::int64_t window_floats() const { return (taps - 1) * channels(); }
  constexpr std::int64_t matrix_floats() const { return value_dim() * head_dim; }
  // Of the state that one sequence has in a layer.
  constexpr std::int64_t state_floats() const { return window_floats() + matrix_floats(); }
};
inline constexpr int kDeltaUnit = 32;  // values of a head that devices compute together

// What a delta layer remembers of its sequences, and of the rows of trees until one path of them is committed.
struct DeltaLayer {
  DeltaShape shape;
  float* states = nullptr;  // (states, state_floats), laid out as the backend likes; a new sequence's is zero
  // Of the rows of a pass that belong to trees, tree behind tree:
  float* inputs = nullptr;  // (rows, channels), before the convolution
  float* keys = nullptr;    // (rows, key_dim)
  float* deltas = nullptr;  // (rows, value_dim)
  float* decays = nullptr;  // (rows, value_heads)
};

// The weights of a delta layer between its projections.
struct DeltaRule {
  const float* taps = nullptr;   // (taps, channels), that of the row's own input last
  const float* decay = nullptr;  // (value_heads), at most 0
  const float* bias = nullptr;   // (value_heads) of the decay's logits
  const float* norm = nullptr;   // (head_dim)
  float epsilon = 0.0f;
};

// The projections of a delta layer's rows.
struct DeltaInputs {
  Tensor mixed;     // (rows, channels): queries, keys, values
  Tensor gate;      // (rows, value_dim)
  Tensor decay;     // (rows, value_heads) logits
  Tensor strength;  // (rows, value_heads) logits
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
  // Columns in each list; without lists: only the first so many rows of `weight` (0: all).
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
};

// What verification found: `count` tokens become part of the text.
struct VerdictView {
  std::int32_t* count = nullptr;   // (1) accepted drafts + 1
  std::int32_t* nodes = nullptr;   // (max_depth + 1) the tree nodes whose K/V and hidden states stay: root first
  std::int32_t* tokens = nullptr;  // (max_depth + 1) the target's token after each of these nodes
};

// A verdict whose length the host need not know: as many entries as a path can have, those that are missing 0.
struct PathView {
  int rows = 0;                    // 0: nobody asks
  std::int32_t* nodes = nullptr;   // (rows)
  std::int32_t* tokens = nullptr;  // (rows)
  std::int32_t* last = nullptr;    // (1) the last entry that is there
};

inline constexpr int kPosts = 2;

// What a device is like, where those who use it must know.
struct Capabilities {
  bool own_memory = false;    // it is not the host's, and may run out (Instruments::memory)
  bool asynchronous = false;  // operations return before they are done: the host may do something else meanwhile
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"

// A device and its operations. One that a backend does not override it does not have: calling it is an error.
class Backend : public Device {
 public:
  explicit Backend(const Capabilities& capabilities) : capabilities_(capabilities) {}

  const Capabilities& capabilities() const { return capabilities_; }
  virtual Instruments& instruments() { missing(__func__); }

  // --- Results for the host ---
  // A download in two parts: the copy is on its way to place `slot`, below kPosts; collect waits for it, and for
  // nothing that was called behind it.
  virtual void post(int slot, const void* from, std::size_t bytes) { missing(__func__); }
  virtual void collect(int slot, void* to_host, std::size_t bytes) { missing(__func__); }

  // --- Layers ---
  virtual void embed(Tensor out, const Weight& table, const std::int32_t* ids, float scale) { missing(__func__); }
  virtual void copy(Tensor out, Tensor x) { missing(__func__); }
  // out[i] = x[rows[i]].
  virtual void gather_rows(Tensor out, Tensor x, const std::int32_t* rows) { missing(__func__); }
  // `out` may be x.
  virtual void rms_norm(Tensor out, Tensor x, const float* weight, float epsilon) { missing(__func__); }
  // x += scale * y, where there are weights: scale * RMS-normed y.
  virtual void add(Tensor x, Tensor y, const float* norm, float epsilon, float scale) { missing(__func__); }
  virtual void matmul(const Operand& x, std::span<const Projection> projections) { missing(__func__); }
  // Products with a head become its logits.
  virtual void apply(const LogitRule& rule, Tensor logits) { missing(__func__); }
  // out[r] = the outputs of the experts with the row's largest `scores` (rows, experts), weighted by the softmax over
  // these scores alone; ties go to the lower expert. They are added in the order of the experts. One that no row has
  // chosen is not read.
  virtual void run_experts(Tensor out, Tensor x, Tensor scores, const Experts& experts) { missing(__func__); }
  // Rotates the heads of q and k in place by each row's position and stores k and v in its sequence's pages.
  virtual void rope_and_append(Tensor q, Tensor k, Tensor v, const Rope& rope, const KvLayer& cache, const Rows& rows) {
    missing(__func__);
  }
  // out[r] = softmax(scale q[r] K^T) V per head, over the logical sequence of row r or the last `window` positions of
  // it; query heads share K/V heads. A position is the number of those before it along the row's own path.
  virtual void attend(Tensor out, Tensor q, const KvLayer& cache, const Rows& rows, const AttentionRule& rule) {
    missing(__func__);
  }
  // Makes the accepted rows of a pass part of the sequence. Keys and values of a tree's move to their place, from slot
  // length + nodes[i] to length + i; those of a chain are there already (`nodes` null). The verdict's tokens join the
  // history, the last of them as the next root (`tokens` null: they have), and fill `path` with their nodes. A token
  // that is none (-1, which the host will see in the verdict) becomes token 0 in both: it is looked up in tables.
  // Then *length += *verdict.count.
  virtual void commit(std::span<const KvLayer> layers, const SequenceView& sequence, const VerdictView& verdict,
                      const PathView& path) {
    missing(__func__);
  }
  // All slots of a page of the cache become those of another.
  virtual void copy_page(std::span<const KvLayer> layers, std::int32_t from, std::int32_t to) { missing(__func__); }

  // --- Recurrent layers ---
  // Row by row along each sequence, with its state M (keys x values) of every value head:
  //   c = silu(sum over taps of taps[j] mixed[the row's ancestor taps - 1 - j steps up]), ascending; before a text: 0
  //   q, k, v = c; q /= sqrt(sum q^2 + epsilon) per head, k likewise; a = exp(decay softplus(logit + bias));
  //   d = (v - a k^T M) sigmoid(strength);  M = a M + k d^T;  out = rms_norm(q^T M / sqrt(head_dim)) silu(gate)
  // Sums over keys have two chains, of even and of odd ones; nothing else is summed but norms. A value depends on its
  // row's path alone, however a text is cut into passes. The states go on behind a chain, whose rows all stay; behind a
  // tree they are what they were until commit_states(). (first_slot is 0.)
  virtual void run_delta(Tensor out, const DeltaInputs& in, const DeltaRule& rule, const DeltaLayer& layer,
                         const Rows& rows) {
    missing(__func__);
  }
  // The state of a sequence goes on along the nodes that a verdict accepted of its tree in the last pass, whose rows
  // are kept from `first` on: perhaps behind commit(), but before the next pass.
  virtual void commit_states(std::span<const DeltaLayer> layers, const SequenceView& sequence,
                             const VerdictView& verdict, int first) {
    missing(__func__);
  }
  // State `to` becomes what state `from` is; -1: that of a new sequence.
  virtual void copy_state(std::span<const DeltaLayer> layers, int from, int to) { missing(__func__); }

  // --- Choosing tokens ---
  // The k best columns of each row, best first, ties to the lower column: ids (rows, k), log-softmax (rows, k), never
  // above 0. `column_ids` maps columns to token ids (null: they are the ids); it must be ascending.
  virtual void top_k(std::int32_t* ids, float* log_probs, int k, Tensor logits, const std::int32_t* column_ids) {
    missing(__func__);
  }
  // tokens[r] = the token after row r, at position length + depth + 1; ties go to the lower id. It is -1 where the
  // best value is not finite: overflow in the model, which the caller must report.
  virtual void sample(std::int32_t* tokens, Tensor logits, const Rows& rows, const Sampling& sampling) {
    missing(__func__);
  }

  // Changes logits (rows.count, V) as the chain says; tokens that rows.allowed lacks are out. `tokens`: the ids of the
  // whole pass that the rows belong to, which their paths point into. A row whose best value is not finite is left
  // alone, or holds nothing else than -infinity.
  virtual void process(Tensor logits, const Rows& rows, const std::int32_t* tokens, const SamplerChain& chain) {
    missing(__func__);
  }
  // out[r] = log-softmax(logits[r])[tokens[r]].
  virtual void log_probs(float* out, Tensor logits, const std::int32_t* tokens) { missing(__func__); }

  // The best tokens by the logits hidden weight^T, which are not kept; with noise (null: none), the best under it.
  virtual void head_top_k(const BestTokens& best, Tensor hidden, const HeadColumns& head, const DraftNoise* noise) {
    missing(__func__);
  }
  // The `count` best columns of each row, ascending: (rows, count). With noise, the best under it. NaN counts as
  // -infinity, ties go to the lower column. `head` is no list.
  virtual void head_candidates(std::int32_t* columns, int count, Tensor hidden, const HeadColumns& head,
                               const DraftNoise* noise) {
    missing(__func__);
  }
  // Makes of `best` the best of itself and `other`, (rows, k) both with their sums: what two heads say together. A
  // token that both name counts once. `noisy`: whether both were chosen under noise.
  virtual void merge_top_k(const BestTokens& best, const BestTokens& other, int rows, bool noisy) { missing(__func__); }
  // With `best` (null: nobody asks) its ids become those of the k <= 64 largest logits of each row, without
  // noise (-1 where there are not so many numbers).
  virtual void head_sample(std::int32_t* tokens, Tensor hidden, const Weight& weight, const Rows& rows,
                           const Sampling& sampling, const BestTokens* best) {
    missing(__func__);
  }

  // --- Draft trees ---
  // Adds the children (rows, branch) of the frontier (level 0: of the root) as candidates of `level` and makes the best
  // `branch` of them the next frontier; its nodes will be stored in draft cache slots level * branch + 0, 1, ...
  virtual void tree_expand(const CandidatePool& pool, int level, const std::int32_t* ids, const float* log_probs) {
    missing(__func__);
  }
  // For rejection sampling: makes the distribution q of a level from `count` candidates (ids, log-probabilities; best
  // first) by the chain's filters and temperature, and draws *token from it.
  virtual void draw_proposal(std::int32_t* token, float* log_prob, const Proposals& proposals, int level,
                             const std::int32_t* candidates, const float* log_probs, int count,
                             const SamplerChain& chain, const RejectionDraw& draw, const std::int32_t* position) {
    missing(__func__);
  }
  // ids[i] = map[ids[i]].
  virtual void map_ids(std::int32_t* ids, int count, const std::int32_t* map) { missing(__func__); }
  // The root, the sequence's last token, and the best size - 1 candidates, parents first; ties go to the earlier one.
  virtual void tree_select(const TreeView& tree, const CandidatePool& pool, const SequenceView& sequence) {
    missing(__func__);
  }
  // Walks down from the root while the target's token after a node (`sampled`, one per node) is one of its children.
  virtual void verify(const VerdictView& verdict, const TreeView& tree, const std::int32_t* sampled) {
    missing(__func__);
  }
  // The same from the logits (tree.size, V) of the nodes, which are `rows`: the chain changes the rows that the
  // walk reaches, at least, and each token is drawn by `draw`.
  virtual void verify_logits(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                             const SamplerChain& chain, const Sampling& draw) {
    missing(__func__);
  }
  // Rejection sampling along a chain (parents[i] = i - 1) instead of the keyed rule: a draft x is kept with probability
  // min(1, p[x] / q[x]), else the residual max(p - q, 0) gives the token. `block`: block verification (Sun et al.,
  // 2403.10444, Algorithm 2), which judges the whole chain. p is the softmax of the processed logits.
  virtual void verify_rejection(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                                const SamplerChain& chain, const Proposals* proposals, const RejectionDraw& draw,
                                bool block) {
    missing(__func__);
  }

 protected:
  [[noreturn]] void missing(const char* operation) const;

 private:
  Capabilities capabilities_;
};

#pragma GCC diagnostic pop

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
