// One transformer block: attention, then a gated feed-forward, each added to the residual stream.
// Targets and drafters run the same code; what a model lacks (biases, norms) is an empty buffer.
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

struct BlockWeights {
  Buffer attention_norm;  // (dim); empty unless attention reads the normed stream
  Linear q, k, v;         // dim or 2 dim -> heads * head_dim, kv_heads * head_dim twice
  Buffer q_norm, k_norm;  // (head_dim), where the architecture has them
  Linear output;          // heads * head_dim -> dim
  Buffer ff_norm;         // (dim)
  Linear gate, up, down;  // dim -> ff, dim -> ff, ff -> dim
};

// Calls use(weight) for every matrix of a block.
template <class Use>
void for_each_matrix(const BlockWeights& w, Use&& use) {
  for (const Linear* linear : {&w.q, &w.k, &w.v, &w.output, &w.gate, &w.up, &w.down}) use(*linear->weight);
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
  Tensor attended(int rows) const { return attended_.matrix(rows, q_dim_); }
  Tensor gate(int rows) const { return gate_.matrix(rows, ff_); }
  Tensor up(int rows) const { return up_.matrix(rows, ff_); }

 private:
  std::int64_t q_dim_, kv_dim_, ff_;
  Buffer q_, k_, v_, attended_, gate_, up_;
};

// x (rows.count, dim) is the residual stream, changed in place; K and V of its rows go to `cache`. Attention reads the
// stream, through the block's norm where it has one; or `attention_input`.
void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& weights, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x);
void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& weights, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x, const Operand& attention_input);

}  // namespace frspec
