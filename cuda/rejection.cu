// CUDA backend: rejection sampling along a chain of drafts, token by token or as a block.
//
// The drafts depend on each other by a few numbers only, so what is as long as the vocabulary is done for all rows side
// by side. A row is cut into chunks as choosing.h says (by its length alone, so the order of a sum does not depend on
// the number of rows); the block that is the last to arrive puts the chunks together, in their order:
//   row_parts      a block for each chunk of each row: its best column and its sum of weights. The last block makes the
//                  rows' totals, the probabilities of the drafts, and the decision, where it needs no more.
//   residual_parts (block verification) the same grid: the sum of each row's residual. The last block decides.
//   draw_parts     a block for each chunk of the decisive row: the token with the largest log-weight and noise. The
//                  last block writes the verdict.
// The CPU adds a row's weights one after the other; here the threads' sums are added as a tree and weights refer to
// the best column of the chunk first, in double: probabilities differ in the last digits.
//
// Memory access: each launch reads its rows once, as choosing.cu does (columns.cuh). Proposals (64 pairs) are read
// where one of their tokens is met. Chunks leave 16 bytes each.
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "cuda/cuda_backend.h"
#include "cuda/device/columns.cuh"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kMostThreads = threads_for_chunks(1 << 30);
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
  double residual;      // sum of the residual, for block verification
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

// q of the draft behind a node: of the first that is this token. By one warp.
__device__ inline double proposed(const Problem& problem, int node, std::int32_t token) {
  const Proposals& q = problem.proposals;
  if (q.width == 0) return 1.0;
  int first = q.width;
  for (int i = lane(); i < q.width; i += kWarp) {
    const bool is_it = q.probs[node * q.width + i] > 0.0f && q.ids[node * q.width + i] == token;
    first = is_it && i < first ? i : first;
  }
  first = warp_reduce(first, [](int a, int b) { return a < b ? a : b; });
  return first < q.width ? static_cast<double>(q.probs[node * q.width + first]) : 0.0;
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

// Which columns of a chunk the drafter may have proposed: `is_proposed` is shared, one byte for each. A barrier.
__device__ inline void mark_proposed(const Problem& problem, int node, const Chunk& chunk, std::uint8_t* is_proposed) {
  const int columns = threads() * kColumnsPerThread;
  for (int i = thread(); i < columns; i += threads()) is_proposed[i] = 0;
  block_sync();
  const Proposals& q = problem.proposals;
  for (int i = thread(); i < std::max(q.width, 1); i += threads()) {
    if (q.width > 0 && !(q.probs[node * q.width + i] > 0.0f)) continue;
    const std::int32_t token = q.width > 0 ? q.ids[node * q.width + i] : problem.tokens[node + 1];
    const std::int64_t at = token - chunk.first;
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

// Algorithm 2 of 2403.10444: p_i there is `joint` here, and tau is `kept`. Called by one thread.
__device__ inline Decision decide_block(const Problem& problem, const Level* levels, int judged) {
  Decision decision = {1.0, 0, problem.drafts > 0 && levels[0].finite != 0 ? 1 : 0, judged};
  for (int i = 1; i <= judged; ++i) {
    const double joint = levels[i].joint;
    double threshold = joint;
    const bool has_residual = i < problem.drafts && levels[i].finite != 0;
    if (has_residual) {
      const double sum = levels[i].residual;
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

// A row's, of its chunks. By one warp.
__device__ inline Level level_of(const Problem& problem, const Part* parts, int node) {
  std::uint64_t key = 0;
  for (int c = lane(); c < grid_x(); c += kWarp) {
    const std::uint64_t other = column_key(parts[c].best, parts[c].at);
    key = other > key ? other : key;
  }
  key = warp_max(key);
  const float* x = problem.logits.row(node);
  Level level = {0.0, 0.0, 1.0, 1.0, 0.0, value_of_key(key), column_of_key(key), 0};
  double sum = 0.0;
  for (int c = lane(); c < grid_x(); c += kWarp) sum += parts[c].value * weight_of(parts[c].best, level.best);
  level.total = warp_sum(sum);
  level.finite = level.best > kMinusInfinity && level.best < -kMinusInfinity && x[0] == x[0] ? 1 : 0;
  if (node == problem.drafts) return level;
  const std::int32_t token = problem.tokens[node + 1];
  const bool is_token = token >= 0 && token < problem.logits.cols;
  if (is_token && level.finite != 0) level.drafted = probability(problem, level, x[token], token);
  level.proposed = proposed(problem, node, token);
  return level;
}

__global__ void row_parts(Problem problem, Workspace work) {
  SharedMemory shared;
  auto* keys = shared.take<std::uint64_t>(kMostThreads / kWarp);
  auto* sums = shared.take<double>(kMostThreads / kWarp);
  auto* flag = shared.take<std::int32_t>(1);
  const int row = block_y();
  Chunk chunk;
  chunk.load(problem.logits, row, block_x());
  // The best column, the first of equal ones.
  std::uint64_t key = 0;
  chunk.for_each([&](int i, std::int32_t column) {
    const std::uint64_t other = column_key(chunk.x[i], column);
    key = other > key ? other : key;
  });
  key = block_max(key, keys);
  const float best = value_of_key(key);
  double sum = 0.0;
  chunk.for_each([&](int i, std::int32_t) { sum += weight_of(chunk.x[i], best); });
  sum = block_sum(sum, sums);
  if (thread() == 0) work.parts[row * grid_x() + block_x()] = {sum, best, column_of_key(key)};
  if (!is_last_block(work.arrived, grid_x() * grid_y(), flag)) return;
  for (int node = warp(); node <= problem.drafts; node += warps()) {
    const Level level = level_of(problem, work.parts + node * grid_x(), node);
    if (lane() == 0) work.levels[node] = level;
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
  *work.decision = decide_block(problem, work.levels, judged);
}

__global__ void residual_parts(Problem problem, Workspace work) {
  SharedMemory shared;
  auto* sums = shared.take<double>(kMostThreads / kWarp);
  auto* flag = shared.take<std::int32_t>(1);
  auto* is_proposed = shared.take<std::uint8_t>(threads() * kColumnsPerThread);
  const int node = block_y() + 1, judged = work.decision->judged;
  const Level level = work.levels[node];
  if (node <= judged && level.finite != 0) {
    Chunk chunk;
    chunk.load(problem.logits, node, block_x());
    mark_proposed(problem, node, chunk, is_proposed);
    double sum = 0.0;
    chunk.for_each([&](int i, std::int32_t column) {
      sum += residual(problem, level, node, level.joint, chunk.x[i], column, is_proposed[chunk.column(i)] != 0);
    });
    sum = block_sum(sum, sums);
    if (thread() == 0) work.parts[node * grid_x() + block_x()].value = sum;
  }
  if (!is_last_block(work.arrived, grid_x() * grid_y(), flag)) return;
  for (int i = 1 + warp(); i <= judged && i < problem.drafts; i += warps()) {
    double sum = 0.0;
    for (int c = lane(); c < grid_x(); c += kWarp) sum += work.parts[i * grid_x() + c].value;
    sum = warp_sum(sum);
    if (lane() == 0) work.levels[i].residual = sum;
  }
  block_sync();
  if (thread() == 0) *work.decision = decide_block(problem, work.levels, judged);
}

constexpr std::int32_t kNone = 0x7FFFFFFF;

// The best (log-weight with noise, column) of all threads, in every thread; the first of equal ones, -1 where there is
// none. A barrier.
__device__ inline Part best_of_block(double value, std::int32_t at, double* values, std::int32_t* columns) {
  const double best = block_max(value, values);
  const std::int32_t first =
      block_reduce(value == best ? at : kNone, columns, [](std::int32_t a, std::int32_t b) { return a < b ? a : b; });
  return {best, 0.0f, first == kNone ? -1 : first};
}

// A column with a weight above 0 drawn by the Gumbel-max trick, as best_of_block has it.
template <class WeightOf>
__device__ inline Part draw_column(const Problem& problem, const Chunk& chunk, std::uint64_t position, double* values,
                                   std::int32_t* columns, WeightOf&& weight) {
  double most = kMinusInfinity;
  std::int32_t at = kNone;
  chunk.for_each([&](int i, std::int32_t column) {
    const double w = weight(i, column);
    if (!(w > 0.0)) return;
    const double value =
        std::log(w) + static_cast<double>(gumbel(problem.draw.seed, position, static_cast<std::uint32_t>(column),
                                                 problem.draw.residual()));
    if (at == kNone || value > most) {
      most = value;
      at = column;
    }
  });
  return best_of_block(most, at, values, columns);
}

__global__ void draw_parts(VerdictView verdict, Problem problem, Workspace work) {
  SharedMemory shared;
  auto* values = shared.take<double>(kMostThreads / kWarp);
  auto* columns = shared.take<std::int32_t>(kMostThreads / kWarp);
  auto* flag = shared.take<std::int32_t>(1);
  auto* is_proposed = shared.take<std::uint8_t>(threads() * kColumnsPerThread);
  const Decision decision = *work.decision;
  const int kept = decision.kept;
  const Level level = work.levels[kept];
  const std::uint64_t position = position_of(problem, kept) + 1;
  Chunk chunk;
  if (level.finite != 0) {
    chunk.load(problem.logits, kept, block_x());
    if (decision.from_residual != 0) mark_proposed(problem, kept, chunk, is_proposed);
    const Part part = draw_column(problem, chunk, position, values, columns, [&](int i, std::int32_t column) {
      if (decision.from_residual == 0) return probability(problem, level, chunk.x[i], column);
      return residual(problem, level, kept, decision.scale, chunk.x[i], column, is_proposed[chunk.column(i)] != 0);
    });
    if (thread() == 0) work.parts[block_x()] = part;
  }
  if (!is_last_block(work.arrived, grid_x(), flag)) return;
  std::int32_t token = -1;
  if (level.finite != 0) {
    double most = kMinusInfinity;
    std::int32_t at = kNone;
    const auto take = [&](const Part& part) {
      if (part.at < 0 || (at != kNone && !(part.value > most))) return;
      most = part.value;
      at = part.at;
    };
    for (int c = thread(); c < grid_x(); c += threads()) take(work.parts[c]);
    token = best_of_block(most, at, values, columns).at;
    // p equals q to the last digit, so there is no residual: all of it again, from p.
    if (token < 0) {
      for (int c = 0; c < grid_x(); ++c) {
        chunk.load(problem.logits, kept, c);
        take(draw_column(problem, chunk, position, values, columns,
                         [&](int i, std::int32_t column) { return probability(problem, level, chunk.x[i], column); }));
      }
      token = at == kNone ? -1 : at;
    }
  }
  for (int i = thread(); i <= kept; i += threads()) {
    verdict.nodes[i] = i;
    verdict.tokens[i] = i < kept ? problem.tokens[i + 1] : token;
  }
  if (thread() == 0) *verdict.count = kept + 1;
}

}  // namespace

void CudaBackend::verify_rejection(const VerdictView& verdict, const TreeView& tree, Tensor logits, const Rows& rows,
                                   const SamplerChain& chain, const Proposals* proposals, const RejectionDraw& draw,
                                   bool block) {
  const Tensor nodes = logits.row_range(0, tree.size);
  // A chain that would change nothing needs no pass.
  const bool is_identity = chain.is_plain() && !chain.filters() && chain.dynatemp_range == 0.0f &&
                           (chain.temperature == 0.0f || chain.temperature == 1.0f);
  if (!is_identity) process(nodes, rows, tree.tokens, chain);
  const int threads = threads_for_chunks(nodes.cols), chunks = chunks_of(nodes.cols);
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
      .prefix = rows.sequence.length,
      .proposals = proposals != nullptr ? *proposals : Proposals{},
      .draw = draw,
      .drafts = tree.size - 1,
      .sampled = chain.temperature > 0.0f ? 1 : 0,
      .block = block ? 1 : 0,
  };
  const std::size_t doubles = shared_bytes<double>(kMostThreads / kWarp), flag = shared_bytes<std::int32_t>(1);
  const std::size_t marks = shared_bytes<std::uint8_t>(chunk_width(nodes.cols));
  launch("verify_rejection rows", row_parts, {chunks, tree.size}, threads, 2 * doubles + flag, problem, work);
  if (block && problem.drafts > 1) {
    launch("verify_rejection residuals", residual_parts, {chunks, problem.drafts - 1}, threads, doubles + flag + marks,
           problem, work);
  }
  launch("verify_rejection draw", draw_parts, {chunks}, threads,
         doubles + shared_bytes<std::int32_t>(kMostThreads / kWarp) + flag + marks, verdict, problem, work);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
