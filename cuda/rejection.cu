// CUDA backend: rejection sampling along a chain of drafts, token by token or as a block.
//
// The drafts depend on each other by a few numbers only, so what is as long as the vocabulary is done for all rows side
// by side. A row is cut into chunks of kEach columns per thread (by its length alone, so the order of a sum does not
// depend on the number of rows); the block that is the last to arrive puts the chunks together, in their order:
//   row_parts      a block for each chunk of each row: its best column and its sum of weights. The last block makes the
//                  rows' totals, the probabilities of the drafts, and the decision, where it needs no more.
//   residual_parts (block verification) the same grid: the sum of each row's residual. The last block decides.
//   draw_parts     a block for each chunk of the decisive row: the token with the largest log-weight and noise. The
//   last
//                  block writes the verdict.
// The CPU adds a row's weights one after the other; here the threads' sums are added as a tree and weights refer to
// the best column of the chunk first, in double: probabilities differ in the last digits.
//
// Memory access: each launch reads its rows once, 4 bytes per lane and neighbouring lanes neighbouring columns, kEach
// loads in flight; rows may begin at any multiple of 4 bytes, so no wider ones. Proposals (64 pairs) are read where one
// of their tokens is met. Chunks leave 16 bytes each.
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "cuda/cuda_backend.h"
#include "cuda/device/block.cuh"
#include "cuda/device/order.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kMostThreads = 256;
constexpr int kEach = 16;         // columns per thread
constexpr int kRoomForRows = 80;  // scratch memory is made for as many at once

// Of a chunk of a row.
struct Part {
  double value;  // sum of weights; sum of the residual; largest log-weight with noise
  float best;    // column's logit
  std::int32_t at;
};

// Of a row.
struct Level {
  double total;         // of exp(logit - best)
  double drafted;       // probability of the draft behind this node
  double proposed;      // the probability that it was drawn with
  double joint;         // of the drafts so far, for block verification
  float best;           // logit
  std::int32_t at;      // its column
  std::int32_t finite;  // whether the row can be drawn from
};

struct Decision {
  double scale;  // of p in the residual
  std::int32_t kept;
  std::int32_t from_residual;  // else from p
  std::int32_t judged;         // nodes 1..judged come into question for block verification
};

struct Workspace {
  Part* parts;  // (rows, chunks)
  Level* levels;
  Decision* decision;
  std::int32_t* arrived;
};

struct Problem {
  Tensor logits;               // (drafts + 1, V)
  const std::int32_t* tokens;  // (drafts + 1) of the chain
  const std::int32_t* depth;
  const std::int32_t* prefix;
  Proposals proposals;  // width 0: none
  RejectionDraw draw;
  std::int32_t drafts;
  std::int32_t sampled;  // temperature > 0: else all probability is the best token's
  std::int32_t block;
};

__device__ inline std::uint64_t position_of(const Problem& problem, int node) {
  return static_cast<std::uint64_t>(*problem.prefix + problem.depth[node]);
}

__device__ inline double weight_of(float x, float best) {
  const double weight = std::exp(static_cast<double>(x) - static_cast<double>(best));
  return weight > 0.0 ? weight : 0.0;  // not a number: out
}

__device__ inline double probability(const Problem& problem, const Level& level, float x, std::int64_t column) {
  if (problem.sampled == 0) return column == level.at ? 1.0 : 0.0;
  return weight_of(x, level.best) / level.total;
}

// q of the draft behind a node.
__device__ inline double proposed(const Problem& problem, int node, std::int32_t token) {
  const Proposals& q = problem.proposals;
  if (q.width == 0) return 1.0;
  for (int i = 0; i < q.width; ++i) {
    const float prob = q.probs[node * q.width + i];
    if (prob > 0.0f && q.ids[node * q.width + i] == token) return static_cast<double>(prob);
  }
  return 0.0;
}

// p - q of a token that the drafter may have proposed.
__device__ inline double without_proposal(const Problem& problem, int node, double p, std::int32_t token) {
  const Proposals& q = problem.proposals;
  if (q.width == 0) return token == problem.tokens[node + 1] ? p - 1.0 : p;
  for (int i = 0; i < q.width; ++i) {
    const float prob = q.probs[node * q.width + i];
    if (prob > 0.0f && q.ids[node * q.width + i] == token) p -= static_cast<double>(prob);
  }
  return p;
}

// One chunk of a row in registers; -infinity behind the row's end. Its columns are begin + j threads() + thread().
struct Chunk {
  float x[kEach];
  std::int64_t begin;
};

__device__ inline std::int64_t column_of(const Chunk& chunk, int j) { return chunk.begin + j * threads() + thread(); }

__device__ inline void load_chunk(Chunk& chunk, const Tensor& logits, int row, int index) {
  chunk.begin = static_cast<std::int64_t>(index) * threads() * kEach;
  const float* from = logits.row(row);
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const std::int64_t column = column_of(chunk, j);
    chunk.x[j] = column < logits.cols ? from[column] : -INFINITY;
  }
}

// Which columns of a chunk the drafter may have proposed: `is_proposed` is shared, one byte for each. A barrier.
__device__ inline void mark_proposed(const Problem& problem, int node, const Chunk& chunk, std::uint8_t* is_proposed) {
  const int columns = threads() * kEach;
  for (int i = thread(); i < columns; i += threads()) is_proposed[i] = 0;
  block_sync();
  const Proposals& q = problem.proposals;
  for (int i = thread(); i < std::max(q.width, 1); i += threads()) {
    if (q.width > 0 && !(q.probs[node * q.width + i] > 0.0f)) continue;
    const std::int32_t token = q.width > 0 ? q.ids[node * q.width + i] : problem.tokens[node + 1];
    const std::int64_t at = token - chunk.begin;
    if (at >= 0 && at < columns) is_proposed[at] = 1;
  }
  block_sync();
}

// max(scale p - q, 0)
__device__ inline double residual(const Problem& problem, const Level& level, int node, double scale, float x,
                                  std::int64_t column, bool is_proposed) {
  double p = probability(problem, level, x, column) * scale;
  if (is_proposed) p = without_proposal(problem, node, p, static_cast<std::int32_t>(column));
  return p > 0.0 ? p : 0.0;
}

// Token by token. Called by one thread.
__device__ inline Decision decide_singly(const Problem& problem, const Level* levels) {
  Decision decision = {1.0, 0, 0, 0};
  while (decision.kept < problem.drafts && levels[decision.kept].finite != 0) {
    const Level& level = levels[decision.kept];
    const double u = uniform(problem.draw.seed, position_of(problem, decision.kept + 1), problem.draw.acceptance());
    if (u * level.proposed >= level.drafted) {
      decision.from_residual = 1;
      break;
    }
    ++decision.kept;
  }
  return decision;
}

// Algorithm 2 of 2403.10444: p_i there is `joint` here, and tau is `kept`. `sums` gives the sum of a node's residual.
// Called by one thread.
template <class SumOf>
__device__ inline Decision decide_block(const Problem& problem, const Level* levels, int judged, SumOf&& sum_of) {
  Decision decision = {1.0, 0, problem.drafts > 0 && levels[0].finite != 0 ? 1 : 0, judged};
  for (int i = 1; i <= judged; ++i) {
    const double joint = levels[i].joint;
    double threshold = joint;
    const bool has_residual = i < problem.drafts && levels[i].finite != 0;
    if (has_residual) {
      const double sum = sum_of(i);
      threshold = sum + 1.0 - joint > 0.0 ? sum / (sum + 1.0 - joint) : 1.0;
    }
    if (uniform(problem.draw.seed, position_of(problem, i), problem.draw.acceptance()) < threshold) {
      decision.kept = i;
      decision.from_residual = has_residual ? 1 : 0;
      decision.scale = joint;
    }
  }
  return decision;
}

__global__ void row_parts(Problem problem, Workspace work) {
  SharedMemory shared;
  auto* keys = shared.take<std::uint64_t>(kMostThreads / kWarp);
  auto* sums = shared.take<double>(kMostThreads / kWarp);
  auto* flag = shared.take<std::int32_t>(1);
  const int row = block_y();
  Chunk chunk;
  load_chunk(chunk, problem.logits, row, block_x());
  // The best column, the first of equal ones.
  std::uint64_t key = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const std::uint64_t other = order_key(chunk.x[j], static_cast<std::int32_t>(column_of(chunk, j)));
    key = other > key ? other : key;
  }
  key = block_max(key, keys);
  const std::int64_t at = index_of_key(key);
  const float best = at < problem.logits.cols ? problem.logits.row(row)[at] : -INFINITY;
  double sum = 0.0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) sum += weight_of(chunk.x[j], best);
  sum = block_sum(sum, sums);
  if (thread() == 0) {
    work.parts[row * grid_x() + block_x()] = {sum, best, static_cast<std::int32_t>(at)};
  }
  if (!is_last_block(work.arrived, grid_x() * grid_y(), flag)) return;
  for (int node = thread(); node <= problem.drafts; node += threads()) {
    const float* x = problem.logits.row(node);
    const Part* parts = work.parts + node * grid_x();
    Level level = {0.0, 0.0, 1.0, 1.0, -INFINITY, 0, 0};
    for (int c = 0; c < grid_x(); ++c) {
      if (parts[c].best > level.best) {
        level.best = parts[c].best;
        level.at = parts[c].at;
      }
    }
    for (int c = 0; c < grid_x(); ++c) {
      const double part = parts[c].value * weight_of(parts[c].best, level.best);
      if (parts[c].best > -INFINITY) level.total += part;
    }
    level.finite = level.best > -INFINITY && level.best < INFINITY && x[0] == x[0] ? 1 : 0;
    if (node < problem.drafts) {
      const std::int32_t token = problem.tokens[node + 1];
      const bool is_token = token >= 0 && token < problem.logits.cols;
      if (is_token && level.finite != 0) level.drafted = probability(problem, level, x[token], token);
      level.proposed = proposed(problem, node, token);
    }
    work.levels[node] = level;
  }
  block_sync();
  if (thread() != 0) return;
  if (problem.block == 0) {
    *work.decision = decide_singly(problem, work.levels);
    return;
  }
  int judged = 0;
  for (double joint = 1.0; judged < problem.drafts && work.levels[judged].finite != 0;) {
    const Level& level = work.levels[judged++];
    const double product = joint * level.drafted / level.proposed;
    joint = product < 1.0 ? product : 1.0;
    work.levels[judged].joint = joint;
  }
  // Where there is more than one draft, residual_parts comes to a better decision.
  *work.decision = decide_block(problem, work.levels, judged, [](int) { return 0.0; });
}

__global__ void residual_parts(Problem problem, Workspace work) {
  SharedMemory shared;
  auto* sums = shared.take<double>(kMostThreads / kWarp);
  auto* flag = shared.take<std::int32_t>(1);
  auto* is_proposed = shared.take<std::uint8_t>(threads() * kEach);
  const int node = block_y() + 1, judged = work.decision->judged;
  const Level level = work.levels[node];
  if (node <= judged && level.finite != 0) {
    Chunk chunk;
    load_chunk(chunk, problem.logits, node, block_x());
    mark_proposed(problem, node, chunk, is_proposed);
    double sum = 0.0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t column = column_of(chunk, j);
      sum += residual(problem, level, node, level.joint, chunk.x[j], column,
                      is_proposed[column - chunk.begin] != 0 && column < problem.logits.cols);
    }
    sum = block_sum(sum, sums);
    if (thread() == 0) work.parts[node * grid_x() + block_x()].value = sum;
  }
  if (!is_last_block(work.arrived, grid_x() * grid_y(), flag) || thread() != 0) return;
  *work.decision = decide_block(problem, work.levels, judged, [&](int i) {
    double sum = 0.0;
    for (int c = 0; c < grid_x(); ++c) sum += work.parts[i * grid_x() + c].value;
    return sum;
  });
}

// A column with a weight above 0 drawn by the Gumbel-max trick, as (log-weight with noise, column) in every thread;
// the first of equal ones, -1 where there is none. A barrier.
template <class WeightOf>
__device__ inline Part draw_column(const Problem& problem, const Chunk& chunk, std::uint64_t position, double* values,
                                   std::int32_t* columns, WeightOf&& weight) {
  constexpr std::int32_t kNone = 0x7FFFFFFF;
  double most = -INFINITY;
  std::int32_t at = kNone;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const std::int64_t column = column_of(chunk, j);
    const double w = weight(chunk.x[j], column);
    if (column >= problem.logits.cols || !(w > 0.0)) continue;
    const double value =
        std::log(w) + static_cast<double>(gumbel(problem.draw.seed, position, static_cast<std::uint32_t>(column),
                                                 problem.draw.residual()));
    if (at == kNone || value > most) {
      most = value;
      at = static_cast<std::int32_t>(column);
    }
  }
  const double best = block_max(most, values);
  const std::int32_t first =
      block_reduce(most == best ? at : kNone, columns, [](std::int32_t a, std::int32_t b) { return a < b ? a : b; });
  return {best, 0.0f, first == kNone ? -1 : first};
}

__global__ void draw_parts(VerdictView verdict, Problem problem, Workspace work) {
  SharedMemory shared;
  auto* values = shared.take<double>(kMostThreads / kWarp);
  auto* columns = shared.take<std::int32_t>(kMostThreads / kWarp);
  auto* flag = shared.take<std::int32_t>(1);
  auto* is_proposed = shared.take<std::uint8_t>(threads() * kEach);
  const Decision decision = *work.decision;
  const int kept = decision.kept;
  const Level level = work.levels[kept];
  const std::uint64_t position = position_of(problem, kept) + 1;
  Chunk chunk;
  if (level.finite != 0) {
    load_chunk(chunk, problem.logits, kept, block_x());
    if (decision.from_residual != 0) mark_proposed(problem, kept, chunk, is_proposed);
    const Part part = draw_column(problem, chunk, position, values, columns, [&](float x, std::int64_t column) {
      if (decision.from_residual == 0) return probability(problem, level, x, column);
      return residual(problem, level, kept, decision.scale, x, column, is_proposed[column - chunk.begin] != 0);
    });
    if (thread() == 0) work.parts[block_x()] = part;
  }
  if (!is_last_block(work.arrived, grid_x(), flag)) return;
  std::int32_t token = -1;
  if (level.finite != 0) {
    double most = -INFINITY;
    const auto take = [&](const Part& part) {
      if (part.at < 0 || (token >= 0 && !(part.value > most))) return;
      most = part.value;
      token = part.at;
    };
    for (int c = 0; c < grid_x(); ++c) take(work.parts[c]);
    // p equals q to the last digit, so there is no residual: all of it again, from p.
    if (token < 0) {
      for (int c = 0; c < grid_x(); ++c) {
        load_chunk(chunk, problem.logits, kept, c);
        take(draw_column(problem, chunk, position, values, columns,
                         [&](float x, std::int64_t column) { return probability(problem, level, x, column); }));
      }
    }
  }
  for (int i = thread(); i <= kept; i += threads()) {
    verdict.nodes[i] = i;
    verdict.tokens[i] = i < kept ? problem.tokens[i + 1] : token;
  }
  if (thread() == 0) *verdict.count = kept + 1;
}

// What a draft is drawn by, as values.
struct ProposalRules {
  RejectionDraw draw;
  std::int32_t top_k;
  float top_p, min_p, temperature;
};

// One block: exponentials side by side, the few sums in the order of the candidates, as on the CPU.
__global__ void draw_draft(std::int32_t* token, float* log_prob, Proposals proposals, int level,
                           const std::int32_t* candidates, const float* log_probs, int most, ProposalRules rules,
                           const std::int32_t* position) {
  SharedMemory shared;
  auto* shares = shared.take<double>(most);
  auto* weights = shared.take<double>(most);
  auto* used = shared.take<std::int32_t>(1);
  auto* total = shared.take<double>(1);
  std::int32_t* ids = proposals.ids + level * proposals.width;
  float* probs = proposals.probs + level * proposals.width;
  const bool sampled = rules.temperature > 0.0f;
  const auto behind = [&](int i) { return static_cast<double>(log_probs[i]) - static_cast<double>(log_probs[0]); };
  for (int i = thread(); i < most; i += threads()) {
    shares[i] = std::exp(static_cast<double>(log_probs[i]));
    weights[i] = sampled ? std::exp(behind(i) / static_cast<double>(rules.temperature)) : 1.0;
  }
  block_sync();
  if (thread() == 0) {
    const double least = rules.min_p > 0.0f ? std::log(static_cast<double>(rules.min_p)) : 0.0;
    double before = 0.0, sum = 0.0;  // filters come before the temperature, as in the target's chain
    int i = 0;
    for (; i < most; ++i) {
      const bool is_out = before >= static_cast<double>(rules.top_p) || (rules.min_p > 0.0f && behind(i) < least) ||
                          rules.temperature == 0.0f;
      if (i > 0 && is_out) break;
      before += shares[i];
      sum += weights[i];
    }
    *used = i;
    *total = sum;
  }
  block_sync();
  // The probabilities are those of the floats that verification will read. Unused ones are ids, too.
  for (int i = thread(); i < proposals.width; i += threads()) {
    ids[i] = candidates[i < *used ? i : 0];
    probs[i] = i < *used ? static_cast<float>(weights[i] / *total) : 0.0f;
  }
  block_sync();
  for (int i = thread(); i < *used; i += threads()) {
    const auto at = static_cast<std::uint64_t>(*position + level + 1);
    const auto share = static_cast<double>(probs[i]);
    weights[i] = share > 0.0 ? std::log(share) +
                                   static_cast<double>(gumbel(rules.draw.seed, at, static_cast<std::uint32_t>(ids[i]),
                                                              rules.draw.drafts()))
                             : -INFINITY;
  }
  block_sync();
  if (thread() != 0) return;
  int drawn = 0;
  for (int i = 1; i < *used; ++i) {
    if (weights[i] > weights[drawn]) drawn = i;
  }
  *token = ids[drawn];
  const float prob = probs[drawn] < 1e-30f ? 1e-30f : probs[drawn];
  const float log = std::log(prob);
  *log_prob = log < 0.0f ? log : 0.0f;
}

}  // namespace

void CudaBackend::draw_proposal(std::int32_t* token, float* log_prob, const Proposals& proposals, int level,
                                const std::int32_t* candidates, const float* log_probs, int count,
                                const SamplerChain& chain, const RejectionDraw& draw, const std::int32_t* position) {
  const int most = std::min({count, proposals.width, chain.top_k > 0 ? chain.top_k : count});
  const ProposalRules rules = {draw, chain.top_k, chain.top_p, chain.min_p, chain.temperature};
  launch("draw_proposal", draw_draft, {}, 2 * kWarp,
         2 * shared_bytes<double>(most) + shared_bytes<std::int32_t>(1) + shared_bytes<double>(1), token, log_prob,
         proposals, level, candidates, log_probs, most, rules, position);
}

void CudaBackend::verify_rejection(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                                   const SamplerChain& chain, const Proposals* proposals, const RejectionDraw& draw,
                                   bool block) {
  const Tensor nodes = logits.row_range(0, tree.size);
  // A chain that would change nothing needs no pass.
  const bool is_identity =
      chain.is_plain() && !chain.filters() && (chain.temperature == 0.0f || chain.temperature == 1.0f);
  if (!is_identity) process(nodes, rows, tree.tokens, chain);
  // Threads and chunks by the vocabulary alone.
  const std::int64_t wanted = (nodes.cols + kEach - 1) / kEach;
  const int threads =
      static_cast<int>(std::clamp<std::int64_t>((wanted + kWarp - 1) / kWarp * kWarp, kWarp, kMostThreads));
  const int columns = threads * kEach;
  const int chunks = static_cast<int>((nodes.cols + columns - 1) / columns);
  const auto room = static_cast<std::size_t>(std::max(tree.size, kRoomForRows));
  auto* results = rejection_results_.take<std::byte>(room * sizeof(Level) + sizeof(Decision));
  const Workspace work{
      .parts = rejection_parts_.take<Part>(room * static_cast<std::size_t>(chunks)),
      .levels = reinterpret_cast<Level*>(results),
      .decision = reinterpret_cast<Decision*>(results + room * sizeof(Level)),
      .arrived = rejection_arrived_.take<std::int32_t>(1),
  };
  const Problem problem{
      .logits = nodes,
      .tokens = tree.tokens,
      .depth = tree.depth,
      .prefix = rows.prefix,
      .proposals = proposals != nullptr ? *proposals : Proposals{},
      .draw = draw,
      .drafts = tree.size - 1,
      .sampled = chain.temperature > 0.0f ? 1 : 0,
      .block = block ? 1 : 0,
  };
  const std::size_t doubles = shared_bytes<double>(kMostThreads / kWarp), flag = shared_bytes<std::int32_t>(1);
  const std::size_t marks = shared_bytes<std::uint8_t>(columns);
  launch("verify_rejection rows", row_parts, {chunks, tree.size}, threads, 2 * doubles + flag, problem, work);
  if (block && problem.drafts > 1) {
    launch("verify_rejection residuals", residual_parts, {chunks, problem.drafts - 1}, threads, doubles + flag + marks,
           problem, work);
  }
  launch("verify_rejection draw", draw_parts, {chunks}, threads,
         doubles + shared_bytes<std::int32_t>(kMostThreads / kWarp) + flag + marks, verdict, problem, work);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
