// Several head policies of one drafter, one of them in use: what head="auto" chooses among.
#pragma once

#include <cstdint>
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

  // At least one policy, at most kMost.
  explicit ChoiceHead(std::vector<Policy> policies) : policies_(std::move(policies)) {}

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
  std::size_t used_ = 0;
};

}  // namespace frspec
