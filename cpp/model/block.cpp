#include "model/block.h"

#include <array>
#include <vector>

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

// The rows of attn_q are, head by head, those of the query and those of the gate.
void load_gated_query(WeightLoader& loader, const std::string& name, const ModelConfig& config, BlockWeights& w) {
  std::vector<std::int32_t> queries, gates;
  for (int head = 0; head < config.heads; ++head) {
    for (int d = 0; d < config.head_dim; ++d) {
      queries.push_back(2 * head * config.head_dim + d);
      gates.push_back((2 * head + 1) * config.head_dim + d);
    }
  }
  const std::int64_t all = 2 * std::int64_t{config.heads} * config.head_dim;
  w.q.weight = loader.picked_rows(name, all, queries, config.dim);
  w.q_gate.weight = loader.picked_rows(name, all, gates, config.dim);
}

std::unique_ptr<DeltaWeights> load_delta(WeightLoader& loader, const ModelConfig& config, const std::string& prefix) {
  const DeltaShape& shape = config.delta;
  const std::int64_t dim = config.dim, heads = shape.value_heads;
  auto w = std::make_unique<DeltaWeights>();
  w->mixed.weight = loader.matrix(prefix + "attn_qkv.weight", shape.channels(), dim);
  w->gate.weight = loader.matrix(prefix + "attn_gate.weight", shape.value_dim(), dim);
  w->decay.weight = loader.matrix(prefix + "ssm_alpha.weight", heads, dim);
  w->strength.weight = loader.matrix(prefix + "ssm_beta.weight", heads, dim);
  w->taps = loader.transposed(prefix + "ssm_conv1d.weight", shape.channels(), shape.taps);
  w->rate = loader.vector_up_to(prefix + "ssm_a", heads, 0.0f);
  w->bias = loader.vector(prefix + "ssm_dt.bias", heads);
  w->norm = loader.vector(prefix + "ssm_norm.weight", shape.head_dim);
  return w;
}

void load_experts(WeightLoader& loader, const ModelConfig& config, const std::string& prefix, BlockWeights& w) {
  const std::int64_t dim = config.dim, ff = config.ff;
  const std::string of_its_own = prefix + "ffn_gate.0.weight", joined = prefix + "ffn_gate_up_exps.weight";
  if (loader.has(of_its_own)) {
    fail(loader.file().path().string(), ": found tensor '", of_its_own, "', a matrix for each expert, expected '",
         prefix, "ffn_gate_exps.weight', one for all of them: a file of early 2024, to be converted anew");
  }
  w.router = load_linear(loader, prefix + "ffn_gate_inp", config.experts, dim);
  const bool is_joined = loader.has(joined);
  const auto load = [&](const char* name, std::int64_t out, std::int64_t in) -> Linear {
    return {loader.experts(concat(prefix, name, ".weight"), config.experts, out, in),
            loader.find_vectors(concat(prefix, name, ".bias"), config.experts, out)};
  };
  const auto load_half = [&](const char* name, std::int64_t first) -> Linear {
    if (!is_joined) return load(name, ff, dim);
    return {loader.expert_rows(joined, config.experts, 2 * ff, first, ff, dim),
            loader.find_vectors(concat(prefix, name, ".bias"), config.experts, ff)};
  };
  w.gate = load_half("ffn_gate_exps", 0);
  w.up = load_half("ffn_up_exps", ff);
  w.down = load("ffn_down_exps", dim, ff);
}

void load_feed_forward(WeightLoader& loader, const ModelConfig& config, const std::string& prefix, BlockWeights& w) {
  if (config.experts > 0) return load_experts(loader, config, prefix, w);
  const std::int64_t dim = config.dim, ff = config.ff;
  if (config.style.gate_in_up) {
    const std::string joined = prefix + "ffn_up.weight";
    w.gate.weight = loader.matrix_rows(joined, 2 * ff, 0, ff, dim);
    w.up.weight = loader.matrix_rows(joined, 2 * ff, ff, ff, dim);
  } else {
    w.gate = load_linear(loader, prefix + "ffn_gate", ff, dim);
    w.up = load_linear(loader, prefix + "ffn_up", ff, dim);
  }
  w.down = load_linear(loader, prefix + "ffn_down", dim, ff);
}

// The rows of x seen as one row per head.
Tensor per_head(Tensor x, int head_dim) { return {x.data, x.rows * (x.cols / head_dim), head_dim, head_dim}; }

const float* weights_of(const Buffer& buffer) { return buffer ? buffer.as<float>() : nullptr; }

std::size_t floats(std::int64_t rows, std::int64_t cols) {
  return sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

}  // namespace

BlockWeights load_block(WeightLoader& loader, const ModelConfig& config, int index, AttentionInput input) {
  const Architecture& style = config.style;
  const std::string prefix = concat("blk.", index, ".");
  const std::int64_t q_dim = std::int64_t{config.heads} * config.head_dim;
  const std::int64_t kv_dim = std::int64_t{config.kv_heads} * config.head_dim;
  const auto norm = [&](std::string_view name, std::int64_t size) {
    return loader.vector(concat(prefix, name, ".weight"), size);
  };
  BlockWeights w;
  const std::int64_t in = std::int64_t{config.dim} * (input == AttentionInput::Joined ? 2 : 1);
  if (input == AttentionInput::Normed && style.pre_norms) w.attention_norm = norm("attn_norm", config.dim);
  const bool recurrent = config.recurrent(index);
  if (recurrent) {
    w.delta = load_delta(loader, config, prefix);
  } else if (style.is_hybrid) {
    load_gated_query(loader, prefix + "attn_q.weight", config, w);
    w.k = load_linear(loader, prefix + "attn_k", kv_dim, in);
    w.v = load_linear(loader, prefix + "attn_v", kv_dim, in);
  } else {
    load_qkv(loader, prefix, q_dim, kv_dim, in, w);
  }
  if (style.qk_norm != QkNorm::None && !recurrent) {
    const bool per_head = style.qk_norm == QkNorm::PerHead;
    w.q_norm = norm("attn_q_norm", per_head ? config.head_dim : q_dim);
    w.k_norm = norm("attn_k_norm", per_head ? config.head_dim : kv_dim);
  }
  if (style.has_sinks) w.sinks = norm("attn_sinks", config.heads);
  w.attention = {.scale = config.attention_scale,
                 .cap = config.score_cap,
                 .window = config.windowed(index) ? config.window : 0,
                 .sinks = w.sinks ? w.sinks.as<float>() : nullptr};
  w.output = recurrent ? load_linear(loader, prefix + "ssm_out", config.dim, config.delta.value_dim())
                       : load_linear(loader, prefix + "attn_output", config.dim, q_dim);
  if (style.post_norms) w.post_attention_norm = norm("post_attention_norm", config.dim);
  if (style.pre_norms) w.ff_norm = norm(style.ff_norm, config.dim);
  load_feed_forward(loader, config, prefix, w);
  if (style.post_norms) w.post_ff_norm = norm("post_ffw_norm", config.dim);
  return w;
}

BlockScratch::BlockScratch(Backend& backend, const ModelConfig& config, int rows)
    : dim_(config.dim),
      q_dim_(std::int64_t{config.heads} * config.head_dim),
      kv_dim_(std::int64_t{config.kv_heads} * config.head_dim),
      ff_(config.ff),
      experts_(config.experts),
      delta_(config.delta),
      q_(backend.allocate(floats(rows, q_dim_))),
      k_(backend.allocate(floats(rows, kv_dim_))),
      v_(backend.allocate(floats(rows, kv_dim_))),
      attended_(backend.allocate(floats(rows, q_dim_))) {
  if (config.style.is_hybrid) q_gate_ = backend.allocate(floats(rows, q_dim_));
  if (config.recurrent_layers() > 0) {
    mixed_ = backend.allocate(floats(rows, delta_.channels()));
    delta_gate_ = backend.allocate(floats(rows, delta_.value_dim()));
    decay_ = backend.allocate(floats(rows, delta_.value_heads));
    strength_ = backend.allocate(floats(rows, delta_.value_heads));
    delta_out_ = backend.allocate(floats(rows, delta_.value_dim()));
  }
  if (experts_ > 0) {
    normed_ = backend.allocate(floats(rows, dim_));
    scores_ = backend.allocate(floats(rows, experts_));
  } else {
    gate_ = backend.allocate(floats(rows, ff_));
    up_ = backend.allocate(floats(rows, ff_));
  }
  if (experts_ > 0 || config.style.post_norms || config.residual_scale != 1.0f) {
    branch_ = backend.allocate(floats(rows, dim_));
  }
}

namespace {

// x += what the last matrix of a branch gives.
void add_branch(Backend& backend, const ModelConfig& config, const BlockScratch& scratch, Tensor x,
                const Operand& input, const Linear& last, const Buffer& post_norm) {
  if (!post_norm && config.residual_scale == 1.0f) return backend.matmul(input, std::array{last.onto(x, true)});
  const Tensor branch = scratch.branch(static_cast<int>(x.rows));
  backend.matmul(input, std::array{last.onto(branch)});
  backend.add(x, branch, weights_of(post_norm), config.epsilon, config.residual_scale);
}

void run_feed_forward(Backend& backend, const ModelConfig& config, const BlockWeights& w, const BlockScratch& scratch,
                      Tensor x) {
  const int n = static_cast<int>(x.rows);
  if (w.router.weight != nullptr) {
    const Tensor normed = scratch.normed(n), scores = scratch.scores(n), branch = scratch.branch(n);
    backend.rms_norm(normed, x, w.ff_norm.as<float>(), config.epsilon);
    backend.matmul({normed}, std::array{w.router.onto(scores)});
    backend.run_experts(branch, normed, scores,
                        {.gate = w.gate.weight.get(),
                         .up = w.up.weight.get(),
                         .down = w.down.weight.get(),
                         .gate_bias = weights_of(w.gate.bias),
                         .up_bias = weights_of(w.up.bias),
                         .down_bias = weights_of(w.down.bias),
                         .used = config.experts_used,
                         .activation = config.style.activation});
    backend.add(x, branch, weights_of(w.post_ff_norm), config.epsilon, config.residual_scale);
    return;
  }
  const Tensor gate = scratch.gate(n), up = scratch.up(n);
  backend.matmul({x, weights_of(w.ff_norm), config.epsilon}, std::array{w.gate.onto(gate), w.up.onto(up)});
  add_branch(backend, config, scratch, x, {.x = gate, .up = up.data, .activation = config.style.activation}, w.down,
             w.post_ff_norm);
}

}  // namespace

void run_delta_rule(Backend& backend, const ModelConfig& config, const BlockWeights& w, const BlockScratch& scratch,
                    const DeltaLayer& layer, const Rows& rows) {
  backend.run_delta(scratch.delta_out(rows.count), scratch.delta(rows.count),
                    {.taps = w.delta->taps.as<float>(),
                     .decay = w.delta->rate.as<float>(),
                     .bias = w.delta->bias.as<float>(),
                     .norm = w.delta->norm.as<float>(),
                     .epsilon = config.epsilon},
                    layer, rows);
}

void run_delta_block(Backend& backend, const ModelConfig& config, const BlockWeights& w, const BlockScratch& scratch,
                     const DeltaLayer& layer, const Rows& rows, Tensor x) {
  const DeltaInputs in = scratch.delta(rows.count);
  const DeltaWeights& delta = *w.delta;
  backend.matmul({x, weights_of(w.attention_norm), config.epsilon},
                 std::array{delta.mixed.onto(in.mixed), delta.gate.onto(in.gate), delta.decay.onto(in.decay),
                            delta.strength.onto(in.strength)});
  run_delta_rule(backend, config, w, scratch, layer, rows);
  add_branch(backend, config, scratch, x, {scratch.delta_out(rows.count)}, w.output, w.post_attention_norm);
  run_feed_forward(backend, config, w, scratch, x);
}

void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& w, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x) {
  run_block(backend, config, w, scratch, rope, cache, rows, x, {x, weights_of(w.attention_norm), config.epsilon});
}

void run_block(Backend& backend, const ModelConfig& config, const BlockWeights& w, const BlockScratch& scratch,
               const Rope& rope, const KvLayer& cache, const Rows& rows, Tensor x, const Operand& attention_input) {
  const int n = rows.count;
  const Tensor q = scratch.q(n), k = scratch.k(n), v = scratch.v(n), attended = scratch.attended(n);
  const Tensor gate = scratch.q_gate(n);
  const bool gated = w.q_gate.weight != nullptr;
  if (gated) {
    backend.matmul(attention_input, std::array{w.q.onto(q), w.k.onto(k), w.v.onto(v), w.q_gate.onto(gate)});
  } else {
    backend.matmul(attention_input, std::array{w.q.onto(q), w.k.onto(k), w.v.onto(v)});
  }
  if (w.q_norm) {
    const bool split = config.style.qk_norm == QkNorm::PerHead;
    const Tensor queries = split ? per_head(q, config.head_dim) : q, keys = split ? per_head(k, config.head_dim) : k;
    backend.rms_norm(queries, queries, w.q_norm.as<float>(), config.epsilon);
    backend.rms_norm(keys, keys, w.k_norm.as<float>(), config.epsilon);
  }
  backend.rope_and_append(q, k, v, rope, cache, rows);
  backend.attend(attended, q, cache, rows, w.attention);
  Operand result{attended};
  if (gated) result = {.x = gate, .up = attended.data, .activation = Activation::Sigmoid};
  add_branch(backend, config, scratch, x, result, w.output, w.post_attention_norm);
  run_feed_forward(backend, config, w, scratch, x);
}

}  // namespace frspec
