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

  const std::vector<Policy>& policies() const { return policies_; }
  void use(int policy) { used_ = static_cast<std::size_t>(policy); }
  // The policies that hold a token now, or cannot say: a bit for each. The first one, which misses least, is taken to
  // hold all.
  std::uint32_t holders(TokenId token) const;

  int size() const override;
  std::vector<const Weight*> matrices() const override { return policies_[used_].head->matrices(); }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    policies_[used_].head->top_k(hidden, best, noise);
  }
  std::optional<bool> holds(TokenId token) const override { return policies_[used_].head->holds(token); }
  void begin() override;
  void observe(const TextNews& news) override;
  int wanted_candidates() const override;

 private:
  std::vector<Policy> policies_;
  std::size_t used_ = 0;
};

}  // namespace frspec
