// Verification: one rule for every drafter (contract 2). The target's token after a node is
//   argmax_v( logits(node)[v] / T + gumbel(seed, position, v) ),   plain argmax at T = 0.
// Walk down from the root while that token is a child of the node; the first that is not is the bonus token.
// This is what plain sampling with the same seed would have said, whatever tree was proposed.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "tokenizer/tokenizer.h"
#include "tree/draft_tree.h"
#include "verify/sampler.h"

namespace frspec {

// The host's copy of a verdict: `tokens` become text; all but the last had been drafted.
struct Verdict {
  std::vector<std::int32_t> nodes;  // accepted path, the root first
  std::vector<TokenId> tokens;      // the target's token after each of them
};

class Verifier {
 public:
  // Room for trees of up to `max_size` nodes and `max_depth` levels below the root.
  Verifier(Backend& backend, int max_size, int max_depth);

  // Decides on device; `hidden` (tree.size, dim), after the final norm, belongs to the nodes of `tree`, which are
  // `rows` of the target's pass. `head` (V, dim) is the target's.
  const VerdictView& verify(const TreeView& tree, const Rows& rows, Tensor hidden, const Weight& head,
                            const Sampling& sampling);
  // From now on verdicts are made up (Backend::pretend_acceptance): timing only. A probability below 0: honest again.
  void pretend(float probability) { pretended_ = probability; }
  // The last verdict, copied to the host: the one copy of a step.
  const Verdict& read();
  // The tokens chosen after each row of a pass that is no tree (device).
  const std::int32_t* sample(const Rows& rows, Tensor hidden, const Weight& head, const Sampling& sampling);

 private:
  Backend& backend_;
  int max_path_;
  Buffer sampled_;  // (max_size)
  Buffer record_;   // count, nodes (max_path), tokens (max_path)
  VerdictView view_;
  std::vector<std::int32_t> host_;
  Verdict verdict_;
  float pretended_ = -1.0f;
};

}  // namespace frspec
