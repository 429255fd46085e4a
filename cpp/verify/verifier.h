// Verification: one rule for every drafter (contract 2). The target's token after a node is
//   argmax_v( processed logits(node)[v] + gumbel(seed, position, v) ),   plain argmax at T = 0.
// Walk down from the root while that token is a child of the node; the first that is not is the bonus token.
// This is what plain sampling with the same seed would have said, whatever tree was proposed.
#pragma once

#include <array>
#include <exception>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/causal_model.h"
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
  // Room for trees of up to `max_size` nodes and `max_depth` levels below the root, `most` of them at once.
  Verifier(Backend& backend, CausalModel& target, int max_size, int max_depth, int most);

  // Decides on device about `tree`, a tree behind the target's sequence whose nodes have the states `hidden`.
  const VerdictView& verify(const DraftTree& tree, Tensor hidden, const Sampler& sampler);
  // The same where a function on the host has a say. It is asked along the accepted path only; `text` is all tokens of
  // the text, the root included.
  const VerdictView& verify(const DraftTree& tree, Tensor hidden, const Sampler& sampler,
                            const LogitsProcessor& processor, std::span<const TokenId> text);
  // The same for a chain, by rejection sampling (Backend::verify_rejection).
  const VerdictView& verify_by_rejection(const DraftTree& tree, const Sampler& sampler, const RejectionDraw& draw,
                                         bool block);
  // From now on verdicts are made up (Instruments::pretend_acceptance): timing only. A probability below 0: honest
  // again.
  void pretend(float probability) { pretended_ = probability; }
  // From now on the target's k most probable tokens after each node of a verified tree are noted, too (0: no more).
  void note_candidates(int k);
  // Sends the last verdict to the host, to place `slot` (Backend::post): the one copy of a step.
  void post(int slot);
  // What was posted there. (One more copy where candidates are noted of tokens that were drawn: the verdict must be the
  // last one then.)
  const Verdict& read(int slot);

  // A tree of one of several sequences, whose nodes are rows of the target's last pass from `first` on.
  struct Asked {
    const DraftTree* tree;
    SequenceView sequence;
    int first;
    const Sampler* sampler;
    const LogitsProcessor* processor;  // null or empty: none
    std::span<const TokenId> text;     // for a processor: the sequence's, the root included
  };
  // Decides about all of them; the head is read once for all whose tokens are the most probable ones, and once for
  // others. Who asks a processor may end with its exception: that is returned, and no verdict of such a one is to be
  // looked at.
  std::vector<std::exception_ptr> verify(std::span<const Asked> asked);
  // What was decided about them: on the device, and for the host. (The latter until it is asked about another one, and
  // candidates() are its own.)
  const VerdictView& verdict_of(std::size_t asked) const { return views_[asked]; }
  const Verdict& read_of(std::size_t asked);
  // Whether read() needs the logits that the last verdict was made from: the target may do nothing else before.
  bool needs_logits() const { return noted_ > 0 && last_.notes_logits; }
  // After each node of the verdict that was read, the likeliest last. Fewer where logits are no numbers.
  std::span<const TokenId> candidates() const { return candidates_; }
  // The tokens (device) chosen after `rows` with the states `hidden`. `tokens`: the ids of their pass.
  const std::int32_t* sample(const Rows& rows, Tensor hidden, const std::int32_t* tokens, const Sampler& sampler);
  // The same for one row, and a function on the host.
  TokenId sample_one(const Rows& row, Tensor hidden, const std::int32_t* tokens, const Sampler& sampler,
                     const LogitsProcessor& processor, std::span<const TokenId> text);

 private:
  // What the host knows of the last verdict, and of those that were posted.
  struct Known {
    std::size_t size = 0;       // nodes of the tree
    bool notes_logits = false;  // whether candidates are still to be found, in the target's logits
    std::size_t copied = 0;     // numbers of the record
  };

  void allocate_record();
  void expect(const DraftTree& tree);  // to be verified next
  // The path that the target takes through a tree where a function on the host has a say, as (size) tokens after each
  // node, -1 where the path does not come along.
  void walk(const DraftTree& tree, const Rows& rows, Tensor hidden, const Sampler& sampler,
            const LogitsProcessor& processor, std::span<const TokenId> text);
  // several.cpp: parts of verify() of several
  void allocate_several();
  void choose_best(std::span<const Asked> asked, std::span<const std::size_t> which);
  void draw(std::span<const Asked> asked, std::span<const std::size_t> which);
  void ask(const Asked& asked, std::size_t which);
  Tensor states_of(std::span<const Asked> asked, std::span<const std::size_t> which);
  Tensor states_of(const Asked& asked) const;
  std::vector<std::int32_t> accepted(std::size_t which);
  void take_noted(std::size_t which, const std::int32_t* ids);
  void note(std::size_t which, Tensor logits);
  std::size_t fixed_record() const { return static_cast<std::size_t>(1 + 2 * max_path_); }
  void take_candidates(const Known& known, std::int32_t* noted);
  void add_candidates(const TokenId* best);  // those after one node, the best first
  TokenId choose(Tensor logits, const Rows& row, const Sampler& sampler, const LogitsProcessor& processor,
                 std::span<const TokenId> text);

  Backend& backend_;
  CausalModel& target_;
  int max_path_;
  Buffer sampled_;  // (max_size)
  Buffer record_;   // count, nodes (max_path), tokens (max_path), candidates (max_size, noted)
  VerdictView view_;
  std::int32_t* noted_ids_ = nullptr;  // of the record
  std::vector<std::int32_t> host_;     // the record
  std::vector<float> host_logits_;     // (V) for processors on the host
  Verdict verdict_;
  int max_size_;
  int noted_ = 0;  // candidates of each node
  Known last_;
  std::array<Known, kPosts> posted_;
  Buffer noted_scores_;  // (logit rows, noted)
  std::vector<TokenId> candidates_;
  float pretended_ = -1.0f;
  // Of several trees at once:
  int most_;
  Buffer records_;                  // (most, record) each as record_'s beginning
  std::vector<VerdictView> views_;  // (most)
  Buffer states_, state_rows_;      // (max_size, dim) and (max_size): of the nodes whose tokens are chosen together
  std::vector<std::int32_t> host_rows_, host_records_;
  std::vector<std::vector<TokenId>> noted_of_;  // (most) of each node that a verdict accepted, the candidates
};

}  // namespace frspec
