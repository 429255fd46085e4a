// Several head policies of one drafter, one of them in use: what head="auto" chooses among.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vocab/draft_head.h"

namespace frspec {

class ChoiceHead final : public DraftHead {
 public:
  struct Policy {
    std::string name;
    std::unique_ptr<DraftHead> head;
  };
  static constexpr std::size_t kMost = 32;
  // What the policies' heads call a token of the target: its tokens in their vocabulary, or none.
  using Spelling = std::function<std::vector<TokenId>(TokenId)>;

  // At least one policy, at most kMost. `spelling`: empty where heads call tokens as the target does.
  explicit ChoiceHead(std::vector<Policy> policies, Spelling spelling = {})
      : policies_(std::move(policies)), spelling_(std::move(spelling)) {}

  std::vector<HeadChoice> choices() const override;
  void use(int policy) override { used_ = static_cast<std::size_t>(policy); }
  // The first policy, which misses least, is taken to hold all.
  std::uint32_t holders(TokenId token) const override;

  int size() const override;
  std::vector<const Weight*> matrices() const override { return policies_[used_].head->matrices(); }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    policies_[used_].head->top_k(hidden, best, noise);
  }
  std::optional<bool> holds(TokenId token) const override { return policies_[used_].head->holds(token); }
  void begin() override;
  void observe(const TextNews& news) override;
  int wanted_candidates() const override;
  bool follows_device() const override { return policies_[used_].head->follows_device(); }

 private:
  std::vector<Policy> policies_;
  Spelling spelling_;
  std::size_t used_ = 0;
};

}  // namespace frspec
