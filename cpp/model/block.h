// One transformer block: attention, then a gated feed-forward or a mixture of them, each added to the residual stream.
// Targets and drafters of every architecture run the same code; what a model lacks (biases, norms, sinks) is an empty
// buffer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "model/config.h"
#include "model/weight_loader.h"

namespace frspec {

struct Linear {
  std::unique_ptr<Weight> weight;  // (out, in)
  Buffer bias;                     // (out) or empty

  Projection onto(Tensor out, bool accumulate = false) const {
    return {out, weight.get(), bias ? bias.as<float>() : nullptr, accumulate};
  }
};

// What a gated delta layer has instead of attention.
struct DeltaWeights {
  Linear mixed, gate;      // dim -> channels, value_dim
  Linear decay, strength;  // dim -> value_heads
  Buffer taps;             // (taps, channels)
  Buffer rate, bias;       // (value_heads)
  Buffer norm;             // (head_dim)
};

struct BlockWeights {
  Buffer attention_norm;                // (dim); empty unless attention reads the normed stream
  std::unique_ptr<DeltaWeights> delta;  // null: attention, which is what follows here
  Linear q, k, v;                       // dim or 2 dim -> heads * head_dim, kv_heads * head_dim twice
  Linear q_gate;                        // as q: of what is attended to; none where it has no gate
  Buffer q_norm, k_norm;                // (head_dim), or those of all heads
  Buffer sinks;                         // (heads)
  AttentionRule attention;
  Linear output;               // heads * head_dim, or value_dim -> dim
  Buffer post_attention_norm;  // (dim)
  Buffer ff_norm;              // (dim)
  Linear gate, up, down;       // dim -> ff, dim -> ff, ff -> dim; with experts, of all of them
  Linear router;               // dim -> experts; none where the feed-forward is dense
  Buffer post_ff_norm;         // (dim)
};

// Calls use(weight) for every matrix of a block that all rows are multiplied with.
template <class Use>
void for_each_matrix(const BlockWeights& w, Use&& use) {
  if (w.delta) {
    for (const Linear* linear : {&w.delta->mixed, &w.delta->gate, &w.delta->decay, &w.delta->strength}) {
      use(*linear->weight);
    }
  } else {
    for (const Linear* linear : {&w.q, &w.k, &w.v}) use(*linear->weight);
    if (w.q_gate.weight != nullptr) use(*w.q_gate.weight);
  }
  use(*w.output.weight);
  if (w.router.weight != nullptr) return use(*w.router.weight);
  for (const Linear* linear : {&w.gate, &w.up, &w.down}) use(*linear->weight);
}

// What a block's attention reads.
enum class AttentionInput : std::uint8_t {
  Normed,  // the residual stream through the block's norm
  Plain,   // the stream itself: the first block of an EAGLE-1/2 drafter
  Joined,  // 2 dim: two vectors side by side that the caller makes: EAGLE-3
};

// Reads block `index` ("blk.INDEX.*").
BlockWeights load_block(WeightLoader& loader, const ModelConfig& config, int index,
                        AttentionInput input = AttentionInput::Normed);

// Room for what happens between the residual stream's two ends, for up to `rows` rows.
class BlockScratch {
 public:
  BlockScratch(Backend& backend, const ModelConfig& config, int rows);

  Tensor q(int rows) const { return q_.matrix(rows, q_dim_); }
  Tensor k(int rows) const { return k_.matrix(rows, kv_dim_); }
  Tensor v(int rows) const { return v_.matrix(rows, kv_dim_); }
  Tensor q_gate(int rows) const { return q_gate_.matrix(rows, q_dim_); }
  DeltaInputs delta(int rows) const {
    return {mixed_.matrix(rows, delta_.channels()), delta_gate_.matrix(rows, delta_.value_dim()),
            decay_.matrix(rows, delta_.value_heads), strength_.matrix(rows, delta_.value_heads)};
  }
  Tensor delta_out(int rows) const { return delta_out_.matrix(rows, delta_.value_dim()); }
  Tensor attended(int rows) const { return attended_.matrix(rows, q_dim_); }
  Tensor gate(int rows) const { return gate_.matrix(rows, ff_); }
  Tensor up(int rows) const { return up_.matrix(rows, ff_); }
  Tensor branch(int rows) const { return branch_.matrix(rows, dim_); }
  Tensor normed(int rows) const { return normed_.matrix(rows, dim_); }
  Tensor scores(int rows) const { return scores_.matrix(rows, experts_); }

 private:
  std::int64_t dim_, q_dim_, kv_dim_, ff_, experts_;
  DeltaShape delta_;
  Buffer q_, k_, v_, attended_;
  Buffer q_gate_;                                             // of gated attention
  Buffer mixed_, delta_gate_, decay_, strength_, delta_out_;  // of delta layers
  Buffer gate_, up_;                                          // of a dense feed-forward
  Buffer branch_;                                             // where what a branch adds is not just added
  Buffer normed_, scores_;                                    // of experts
};

// What a delta layer does between its projections, whose products are in the scratch memory.
void run_delta_rule(Backend& backend, const ModelConfig& config, const BlockWeights& weights,
                    const BlockScratch& scratch, const DeltaLayer& layer, const Rows& rows);
// A block with a delta layer, whose states go on in `layer`.
void run_delta_block(Backend& backend, const ModelConfig& config, const BlockWeights& weights,
                     const BlockScratch& scratch, const DeltaLayer& layer, const Rows& rows, Tensor x);

// x (rows.count, dim) is the residual stream, changed in place; K and V of its rows go to `cache`. Attention reads the
// stream, through the block's norm where it has one; or `attention_input`.
void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& weights, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x);
void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& weights, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x, const Operand& attention_input);

}  // namespace frspec
