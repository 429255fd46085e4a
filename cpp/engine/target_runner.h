// The target on the sequences that its cache holds: reads a prompt, verifies draft trees, commits what was accepted.
// All calls are about the sequence of one place (use), but for a pass of several.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/sequence.h"
#include "model/causal_model.h"
#include "verify/verifier.h"

namespace frspec {

// Tokens without meaning, for passes that are timed. They differ, since rows that are alike choose the same experts.
std::vector<TokenId> some_tokens(int count, int vocab);

class TargetRunner {
 public:
  // Passes of up to `batch` tokens of a prompt, trees of up to `max_depth` levels below the root.
  TargetRunner(Backend& backend, CausalModel& target, int batch, int max_depth);

  CausalModel& target() { return target_; }
  Verifier& verifier() { return verifier_; }
  int batch() const { return batch_; }
  int places() const { return target_.limits().places; }
  // The place that all calls are about from now on.
  void use(int place) { target_.pages()->use(place); }
  // The sequence on the device.
  SequenceView sequence() { return target_.cache().sequence(history()); }
  // Its token at `position`, where the host knows that there is one.
  const std::int32_t* token(std::size_t position) const { return history() + position; }
  // What the last commit() accepted, for those who cannot wait for the host to know it.
  const PathView& path() const { return path_; }

  // Another sequence, whose first `length` tokens are in the cache.
  void reset(std::int32_t length = 0);
  // The sequence begins with these tokens. Returns how many of them are in the cache already.
  std::int32_t begin(std::span<const TokenId> tokens, const Reuse& reuse);
  // From now on it has room for so many tokens, and for a tree behind them. False: others hold the pages.
  [[nodiscard]] bool reserve(std::int64_t tokens) { return target_.pages()->reserve(tokens + target_.limits().tree); }
  // The sequence has ended; the first `committed` tokens of `text` are in the cache, and the drafter was told of the
  // first `drafted` ones. Others may reuse them.
  void leave(std::span<const TokenId> text, std::int32_t committed, std::int32_t drafted, const Reuse& reuse);
  // Others may reuse whole pages of it already, while it goes on. As leave().
  void share(std::span<const TokenId> text, std::int32_t committed, std::int32_t drafted, const Reuse& reuse) {
    target_.pages()->share(text, committed, drafted, reuse);
  }
  // Whether texts that begin alike go on from copies of recurrent states only. Then some are kept: of a prompt of which
  // `first` tokens are committed, one wants to be behind as many tokens as this (0: none does); and of its end.
  bool keeps_states() const { return target_.states() != nullptr; }
  std::size_t next_state(std::size_t first, std::size_t prompt) const;
  // The state behind these tokens, which are committed, is kept. The last `unwanted` of them, all of the last step, are
  // left out as far as can be; only a new sequence can follow then.
  void keep_state(std::span<const TokenId> tokens, const Reuse& reuse, std::int32_t unwanted = 0);
  // Another sequence's pass may follow: which tokens are unwanted is said before it.
  void settle_state(std::int32_t unwanted);
  // Rows that the trees of a pass may have, all together.
  int tree_rows() const { return keeps_states() ? target_.states()->rows() : target_.limits().rows; }
  // The cache is for passes that follow no sequence. Nobody else may hold pages.
  void take_over();
  // Behind the first `length` slots of the cache, whatever they are of, it has these tokens.
  void set_tokens(std::span<const TokenId> tokens, std::int32_t length);
  // One pass over its `count` tokens from `first` on, at most batch(), all before them being committed. False:
  // abandoned, because `keep_going` said so.
  bool read(std::size_t first, int count, const std::function<bool()>& keep_going = {});
  // The token after the last of the `rows` rows that were read, which end the sequence: the first root. `text`: its
  // tokens, where a processor is to look at them. `allowed`: what it may be (device); none: anything.
  TokenId sample_first(int rows, std::size_t length, const Sampler& sampler, const LogitsProcessor& processor,
                       std::span<const TokenId> text, const TokenBits& allowed);
  // Makes the rows that were read part of the prefix.
  void commit_rows(std::int32_t rows);
  // The tree that is its root alone, the last token of the sequence: with it verification is plain decoding.
  const DraftTree& root_alone();
  // One pass over a tree, all of its nodes.
  void forward(const DraftTree& tree) { target_.forward(tree.view().tokens, tree.rows(target_.cache().sequence())); }
  // Keeps the accepted nodes of the tree that was verified last; the verdict's tokens join the sequence.
  void commit(const DraftTree& tree, const VerdictView& verdict);

  // What one sequence has in a pass of several: a chain of tokens that it is to read, or a tree (tree[0] is its root).
  struct Part {
    int place = 0;
    std::span<const TokenId> tokens;
    std::span<const std::int32_t> parents = {};  // of a tree; none: a chain
    int first = 0;                               // its first row in the pass; set by forward()
  };
  // One pass over the parts of several places, one for each, all rows of which target().limits() has room for.
  void forward(std::span<Part> parts);

  // One pass over a tree behind `prefix` tokens of the cache, whatever they are, with its verdict: for timing.
  void try_tree(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents);
  // What the recurrent layers do beside the products of such a pass; and of so many tokens of a prompt.
  void try_states(std::int32_t prefix, int tokens);
  void try_states(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents);

  // The log-probabilities of the `count` tokens (device) that follow the given states, with the `best` best ones beside
  // each: at temperature 1, before the sampler chain.
  std::vector<TokenLogprobs> logprobs(Tensor hidden, const std::int32_t* tokens, std::size_t count, int best);
  // The same of the tokens of a verdict about a tree, whose nodes have these states.
  std::vector<TokenLogprobs> logprobs(Tensor nodes, const VerdictView& verdict, int rows, std::size_t count, int best);
  // Of the first root, at `position`, behind the last of the `rows` rows that were read.
  std::vector<TokenLogprobs> logprobs_of_root(int rows, std::size_t position, std::size_t count, int best) {
    return logprobs(target_.hidden(rows).row_range(rows - 1, 1), token(position), count, best);
  }

 private:
  std::int32_t* history() const {
    return history_.as<std::int32_t>() + static_cast<std::ptrdiff_t>(target_.pages()->place()) * history_stride_;
  }

  Backend& backend_;
  CausalModel& target_;
  Verifier verifier_;
  int batch_;
  DraftTree root_alone_;
  std::vector<std::size_t> shared_;  // (places) tokens with which the sequence begins like an earlier one
  Buffer count_;                     // (1) rows that are committed
  Buffer last_depth_;                // (1) -1: the row of the prefix's last token
  std::ptrdiff_t history_stride_;    // context + max_depth + 1
  Buffer history_;  // (places, history_stride) tokens; the last one of each is the root of its next tree
  Buffer path_memory_;
  PathView path_;
  Buffer committed_;  // (max_depth + 1, dim) hidden states of an accepted path
  Buffer best_;       // ids, log-probabilities, and the chosen token's; as many as were wanted
  // Of a pass of several:
  Buffer pass_;  // tokens and depths (rows), paths
  std::vector<std::int32_t> host_pass_;
  std::vector<RowGroup> groups_;
};

}  // namespace frspec
