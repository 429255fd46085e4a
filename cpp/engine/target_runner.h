// The target on the sequence that its cache holds: reads a prompt, verifies draft trees, commits what was accepted.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/sequence.h"
#include "model/causal_model.h"
#include "verify/verifier.h"

namespace frspec {

class TargetRunner {
 public:
  // Passes of up to `batch` tokens of a prompt, trees of up to `max_size` nodes and `max_depth` levels below the root.
  TargetRunner(Backend& backend, CausalModel& target, int batch, int max_size, int max_depth);

  CausalModel& target() { return target_; }
  Verifier& verifier() { return verifier_; }
  int batch() const { return batch_; }
  // Device: tokens that are committed; the root of the next tree, which is the last token of the sequence; tokens of
  // the sequence so far, the committed ones.
  const std::int32_t* length() { return target_.cache().length(); }
  const std::int32_t* root() const { return root_.as<std::int32_t>(); }
  const std::int32_t* history() const { return history_.as<std::int32_t>(); }

  // Another sequence, whose first `length` tokens are in the cache.
  void reset(std::int32_t length = 0) { target_.cache().set_length(length); }
  // The sequence begins with this prompt, which is not in the cache yet.
  void begin(std::span<const TokenId> prompt);
  // One pass over at most batch() tokens behind the prefix. False: abandoned, because `keep_going` said so.
  bool read(std::span<const TokenId> tokens, const std::function<bool()>& keep_going = {});
  // The token after the last of the `rows` rows that were read: the first root.
  TokenId sample_first(int rows, const Sampler& sampler, const LogitsProcessor& processor,
                       std::span<const TokenId> prompt);
  // Makes the rows that were read part of the prefix.
  void commit_rows(std::int32_t rows);
  // The tree that is its root alone, the last token of the sequence: with it verification is plain decoding.
  const DraftTree& root_alone();
  // One pass over a tree, all of its nodes.
  void forward(const DraftTree& tree) { target_.forward(tree.view().tokens, tree.rows(length())); }
  // Keeps the accepted nodes of the tree that was verified last; their tokens join the history, and the token behind
  // them becomes the root.
  void commit(const DraftTree& tree, const VerdictView& verdict);

  // One pass over a tree behind `prefix` tokens of the cache, whatever they are, with its verdict: for timing.
  void try_tree(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents);

  // The log-probabilities of the `count` tokens (device) that follow the given states, with the `best` best ones beside
  // each: at temperature 1, before the sampler chain.
  std::vector<TokenLogprobs> logprobs(Tensor hidden, const std::int32_t* tokens, std::size_t count, int best);
  // The same of the tokens of a verdict about the tree of the last pass.
  std::vector<TokenLogprobs> logprobs(const DraftTree& tree, const VerdictView& verdict, int rows, std::size_t count,
                                      int best);
  // Of the root, behind the last of the `rows` rows that were read.
  std::vector<TokenLogprobs> logprobs_of_root(int rows, std::size_t count, int best) {
    return logprobs(target_.hidden(rows).row_range(rows - 1, 1), root(), count, best);
  }

 private:
  Backend& backend_;
  CausalModel& target_;
  Verifier verifier_;
  int batch_;
  DraftTree root_alone_;
  Buffer ids_;         // (batch) tokens of a pass
  Buffer root_;        // (1)
  Buffer count_;       // (1) rows that are committed
  Buffer last_depth_;  // (1) -1: the row of the prefix's last token
  Buffer history_;     // (context + max_depth + 1)
  Buffer committed_;   // (max_depth + 1, dim) hidden states of an accepted path
  Buffer best_;        // ids, log-probabilities, and the chosen token's; as many as were wanted
};

}  // namespace frspec
