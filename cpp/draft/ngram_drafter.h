// Drafting from the text itself: what followed the last tokens when they stood there before (prompt lookup). No
// weights, and nothing proposed where nothing is repeated. Alone, or filling the tree of another drafter.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "draft/drafter.h"
#include "draft/host_tree.h"

namespace frspec {

// Where the n-grams of a growing text stand.
class NgramIndex {
 public:
  // Looks up the last `longest` tokens, then fewer, down to kShortest (or `longest`, if that is less).
  explicit NgramIndex(int longest) : longest_(longest), shortest_(std::min(kShortest, longest)) {}
  static constexpr int kShortest = 2;

  // A text of at most `tokens` tokens begins; nothing is allocated until the next.
  void begin(std::size_t tokens);
  void push(std::span<const TokenId> tokens);
  const std::vector<TokenId>& text() const { return text_; }

  // What followed the last `matched` tokens before.
  struct Continuation {
    int matched;
    std::span<const TokenId> tokens;
  };
  // Continuations of the text, each at most `length` tokens, the longest match and the latest place first.
  const std::vector<Continuation>& continuations(int length, std::size_t most);

 private:
  // Of the n-grams of one length: where they end.
  struct Ends {
    std::vector<std::uint32_t> latest;  // by hash; 0: none
    std::vector<std::uint32_t> before;  // (tokens) by end: where the same n-gram ended before; 0: nowhere
  };

  Ends& ends_of(int n) { return ends_[static_cast<std::size_t>(n - shortest_)]; }
  // The place of the n tokens before `end` among Ends::latest: theirs, or a free one.
  std::uint32_t& latest(std::size_t end, int n);
  void index();

  int longest_, shortest_;
  std::vector<TokenId> text_;
  std::size_t indexed_ = 0;  // ends of n-grams up to here are in
  std::vector<Ends> ends_;   // by length
  std::vector<Continuation> found_;
};

class NgramDrafter final : public Drafter {
 public:
  // For `places` texts at once. Adds up to `nodes` nodes, at most `depth` levels deep, to the trees of `inner` (null:
  // to the root alone), which have at most `inner_size` nodes. A Growth chooses among the nodes of both together.
  NgramDrafter(Backend& backend, std::unique_ptr<Drafter> inner, int longest, int nodes, int depth, int inner_size,
               int inner_depth, int places);

  void use_place(int place) override;
  void begin(const TextRules& rules) override;
  void extend(const Extension& extension) override;
  bool reads_states() const override { return inner_ && inner_->reads_states(); }
  void accept(const Committed& committed) override { inner_->accept(committed); }
  void resume(std::int32_t count) override { inner_->resume(count); }
  std::size_t unread() override { return inner_ ? inner_->unread() : 0; }
  void read(std::size_t most) override {
    if (inner_) inner_->read(most);
  }
  bool repeats() const override { return true; }
  const DraftTree& propose(Growth* growth) override;
  std::vector<DraftArm> arms() const override { return inner_ ? inner_->arms() : std::vector<DraftArm>{}; }
  void use_arm(int arm) override {
    if (inner_) inner_->use_arm(arm);
  }
  std::uint32_t holders(TokenId token) const override { return inner_ ? inner_->holders(token) : ~0u; }
  std::vector<const Weight*> matrices() const override {
    return inner_ ? inner_->matrices() : std::vector<const Weight*>{};
  }
  std::optional<bool> could_offer(TokenId token) const override {
    return inner_ ? inner_->could_offer(token) : std::nullopt;
  }
  int wanted_candidates() const override { return inner_ ? inner_->wanted_candidates() : 0; }

 private:
  // What it knows of the text of a place.
  struct Text {
    NgramIndex index;
    bool is_chain = false;  // for rejection sampling
  };

  const DraftTree& propose_best(Growth& growth);

  Backend& backend_;
  std::unique_ptr<Drafter> inner_;
  std::vector<Text> texts_;  // (places)
  Text* text_;               // the one that all calls are about
  int nodes_, depth_;
  std::size_t room_;  // nodes of a tree
  HostTree host_;
  DraftTree tree_;
  // Scratch.
  std::vector<float> chances_;
  std::vector<std::int32_t> tokens_, parents_, places_;
};

}  // namespace frspec
