#include "vocab/choice_head.h"

#include <algorithm>
#include <span>

namespace frspec {

std::vector<HeadChoice> ChoiceHead::choices() const {
  std::vector<HeadChoice> result;
  for (const Policy& policy : policies_) result.push_back({policy.name, policy.head.get()});
  return result;
}

std::uint32_t ChoiceHead::holders(TokenId token) const {
  std::vector<TokenId> translated;
  std::span<const TokenId> spelled(&token, 1);
  if (spelling_) spelled = translated = spelling_(token);
  std::uint32_t bits = 1;
  for (std::size_t i = 1; i < policies_.size(); ++i) {
    const auto holds = [&](TokenId own) { return policies_[i].head->holds(own).value_or(true); };
    bits |= std::all_of(spelled.begin(), spelled.end(), holds) ? 1u << i : 0u;
  }
  return bits;
}

int ChoiceHead::size() const {
  int least = policies_[0].head->size();
  for (const Policy& policy : policies_) least = std::min(least, policy.head->size());
  return least;
}

void ChoiceHead::begin() {
  for (const Policy& policy : policies_) policy.head->begin();
}

void ChoiceHead::observe(const TextNews& news) {
  for (const Policy& policy : policies_) policy.head->observe(news);
}

int ChoiceHead::wanted_candidates() const {
  int most = 0;
  for (const Policy& policy : policies_) most = std::max(most, policy.head->wanted_candidates());
  return most;
}

}  // namespace frspec
