// Which tokens of two vocabularies mean the same: those that spell the same bytes, and control tokens of the same role
// (Timor et al., 2502.05202, section 3: the intersection of T and D).
#pragma once

#include <vector>

#include "tokenizer/tokenizer.h"

namespace frspec {

class VocabularyAlignment {
 public:
  VocabularyAlignment(const Tokenizer& target, const Tokenizer& drafter);

  static constexpr TokenId kNone = -1;
  // The token of the other vocabulary, or kNone. The two are inverse to each other.
  TokenId to_drafter(TokenId target) const { return to_drafter_[static_cast<std::size_t>(target)]; }
  TokenId to_target(TokenId drafter) const { return to_target_[static_cast<std::size_t>(drafter)]; }
  const std::vector<TokenId>& to_target() const { return to_target_; }

  int size() const { return size_; }  // tokens of the intersection
  // Whether every token of the target has the same id in the drafter's vocabulary: then there is nothing to translate,
  // although either may have further, unused ids (padding).
  bool is_identity() const { return identity_; }

 private:
  std::vector<TokenId> to_drafter_;  // (T)
  std::vector<TokenId> to_target_;   // (D)
  int size_ = 0;
  bool identity_ = true;
};

}  // namespace frspec
