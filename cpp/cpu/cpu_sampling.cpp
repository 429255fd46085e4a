// CPU backend: the sampler chain, and the probabilities of chosen tokens.
#include <algorithm>
#include <cmath>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

// The last `most` tokens of row r's sequence: those of the prefix, then those on its path.
void collect_recent(std::vector<std::int32_t>& out, const Rows& rows, std::int64_t r, const std::int32_t* tokens,
                    const std::int32_t* history, int most) {
  out.clear();
  const std::int64_t depth = rows.depth != nullptr ? rows.depth[r] : r;
  const std::int64_t own = depth + 1, length = *rows.sequence.length + own;
  for (std::int64_t i = std::max<std::int64_t>(0, length - most); i < length; ++i) {
    if (i < *rows.sequence.length) {
      out.push_back(history[i]);
    } else {
      const std::int64_t step = i - *rows.sequence.length;
      out.push_back(tokens[rows.path != nullptr ? rows.path[r * rows.path_stride + step] : step]);
    }
  }
}

}  // namespace

void CpuBackend::process(Tensor logits, const Rows& rows, const std::int32_t* tokens, const SamplerChain& chain) {
  pool_.parallel_for(rows.count, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    RowChain& row_chain = row_chains_[static_cast<std::size_t>(worker)];
    for (std::int64_t r = begin; r < end; ++r) {
      row_chain.recent.clear();
      if (chain.has_penalties()) collect_recent(row_chain.recent, rows, r, tokens, chain.history, chain.last_n);
      const std::int64_t depth = rows.depth != nullptr ? rows.depth[r] : r;
      row_chain.run(kernels_, {logits.row(r), static_cast<std::size_t>(logits.cols)}, chain, row_chain.recent,
                    *rows.sequence.length + depth + 1, rows.allowed ? rows.allowed.row(r) : nullptr);
    }
  });
}

void CpuBackend::log_probs(float* out, Tensor logits, const std::int32_t* tokens) {
  pool_.parallel_for(logits.rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      const float* x = logits.row(r);
      const float best = kernels_.maximum(x, logits.cols);
      const double sum = static_cast<double>(kernels_.sum_exp(x, logits.cols, best));
      out[r] = static_cast<float>(static_cast<double>(x[tokens[r]]) - static_cast<double>(best) - std::log(sum));
    }
  });
}

}  // namespace frspec::cpu
