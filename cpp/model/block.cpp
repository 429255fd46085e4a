// One transformer block.
#include "model/block.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace frspec {
namespace {

Linear load_linear(WeightLoader& loader, const std::string& name, std::int64_t out, std::int64_t in) {
  return {loader.matrix(name + ".weight", out, in), loader.find_vector(name + ".bias", out)};
}

// Q, K and V. Some files have them in one matrix, one below the other, perhaps with biases of their own.
void load_qkv(WeightLoader& loader, const std::string& prefix, std::int64_t q_dim, std::int64_t kv_dim, std::int64_t in,
              BlockWeights& w) {
  const std::string joined = prefix + "attn_qkv";
  const bool has_joined = loader.has(joined + ".weight");
  std::int64_t first = 0;
  const std::int64_t all = q_dim + 2 * kv_dim;
  const auto load = [&](const char* name, std::int64_t rows) -> Linear {
    if (!has_joined) return load_linear(loader, prefix + name, rows, in);
    Linear part{loader.matrix_rows(joined + ".weight", all, first, rows, in),
                loader.find_vector_part(joined + ".bias", all, first, rows)};
    if (!part.bias) part.bias = loader.find_vector(concat(prefix, name, ".bias"), rows);
    first += rows;
    return part;
  };
  w.q = load("attn_q", q_dim);
  w.k = load("attn_k", kv_dim);
  w.v = load("attn_v", kv_dim);
}

// The rows of x seen as one row per head.
Tensor per_head(Tensor x, int head_dim) { return {x.data, x.rows * (x.cols / head_dim), head_dim, head_dim}; }

std::size_t floats(std::int64_t rows, std::int64_t cols) {
  return sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

}  // namespace

BlockWeights load_block(WeightLoader& loader, const ModelConfig& config, int index, AttentionInput input) {
  const std::string prefix = concat("blk.", index, ".");
  const std::int64_t q_dim = std::int64_t{config.heads} * config.head_dim;
  const std::int64_t kv_dim = std::int64_t{config.kv_heads} * config.head_dim;
  BlockWeights w;
  const std::int64_t in = std::int64_t{config.dim} * (input == AttentionInput::Joined ? 2 : 1);
  if (input == AttentionInput::Normed) w.attention_norm = loader.vector(prefix + "attn_norm.weight", config.dim);
  load_qkv(loader, prefix, q_dim, kv_dim, in, w);
  if (config.qk_norm) {
    w.q_norm = loader.vector(prefix + "attn_q_norm.weight", config.head_dim);
    w.k_norm = loader.vector(prefix + "attn_k_norm.weight", config.head_dim);
  }
  w.output = load_linear(loader, prefix + "attn_output", config.dim, q_dim);
  w.ff_norm = loader.vector(prefix + "ffn_norm.weight", config.dim);
  w.gate = load_linear(loader, prefix + "ffn_gate", config.ff, config.dim);
  w.up = load_linear(loader, prefix + "ffn_up", config.ff, config.dim);
  w.down = load_linear(loader, prefix + "ffn_down", config.dim, config.ff);
  return w;
}

BlockScratch::BlockScratch(Backend& backend, const ModelConfig& config, int rows)
    : q_dim_(std::int64_t{config.heads} * config.head_dim),
      kv_dim_(std::int64_t{config.kv_heads} * config.head_dim),
      ff_(config.ff),
      q_(backend.allocate(floats(rows, q_dim_))),
      k_(backend.allocate(floats(rows, kv_dim_))),
      v_(backend.allocate(floats(rows, kv_dim_))),
      attended_(backend.allocate(floats(rows, q_dim_))),
      gate_(backend.allocate(floats(rows, ff_))),
      up_(backend.allocate(floats(rows, ff_))) {}

void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& w, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x) {
  const float* norm = w.attention_norm ? w.attention_norm.as<float>() : nullptr;
  run_block(backend, config, w, scratch, rope, cache, rows, x, {x, norm, config.epsilon});
}

void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& w, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x, const Operand& attention_input) {
  const int n = rows.count;
  const Tensor q = scratch.q(n), k = scratch.k(n), v = scratch.v(n);
  const Tensor attended = scratch.attended(n), gate = scratch.gate(n), up = scratch.up(n);

  backend.matmul(attention_input, std::array{w.q.onto(q), w.k.onto(k), w.v.onto(v)});
  if (w.q_norm) {
    const Tensor queries = per_head(q, config.head_dim), keys = per_head(k, config.head_dim);
    backend.rms_norm(queries, queries, w.q_norm.as<float>(), config.epsilon);
    backend.rms_norm(keys, keys, w.k_norm.as<float>(), config.epsilon);
  }
  backend.rope_and_append(q, k, v, rope, cache, rows);
  backend.attend(attended, q, cache, rows, 1.0f / std::sqrt(static_cast<float>(config.head_dim)));
  backend.matmul({attended}, std::array{w.output.onto(x, true)});

  backend.matmul({x, w.ff_norm.as<float>(), config.epsilon}, std::array{w.gate.onto(gate), w.up.onto(up)});
  backend.matmul({.x = gate, .up = up.data}, std::array{w.down.onto(x, true)});
}

}  // namespace frspec
