#include "vocab/alignment.h"

#include <string>
#include <string_view>
#include <unordered_map>

namespace frspec {
namespace {

bool spells(const Tokenizer& tokenizer, TokenId id) {
  const TokenType type = tokenizer.token_type(id);
  return (type == TokenType::Normal || type == TokenType::UserDefined || type == TokenType::Byte) &&
         !tokenizer.token_bytes(id).empty();
}

// Ids by the bytes they spell. Where a byte token and an ordinary one spell the same, the ordinary one stands.
std::unordered_map<std::string_view, TokenId> by_bytes(const Tokenizer& tokenizer, bool byte_tokens) {
  std::unordered_map<std::string_view, TokenId> result;
  for (TokenId id = 0; id < tokenizer.size(); ++id) {
    if (spells(tokenizer, id) && (tokenizer.token_type(id) == TokenType::Byte) == byte_tokens) {
      result.emplace(tokenizer.token_bytes(id), id);
    }
  }
  return result;
}

}  // namespace

VocabularyAlignment::VocabularyAlignment(const Tokenizer& target, const Tokenizer& drafter)
    : to_drafter_(static_cast<std::size_t>(target.size()), kNone),
      to_target_(static_cast<std::size_t>(drafter.size()), kNone) {
  const auto match = [this](TokenId t, TokenId d) {
    if (to_drafter_[static_cast<std::size_t>(t)] != kNone || to_target_[static_cast<std::size_t>(d)] != kNone) return;
    to_drafter_[static_cast<std::size_t>(t)] = d;
    to_target_[static_cast<std::size_t>(d)] = t;
    ++size_;
  };
  // The same id first, so that vocabularies that are alike stay so, whatever is doubled in them.
  for (TokenId id = 0; id < target.size() && id < drafter.size(); ++id) {
    if (spells(target, id) && spells(drafter, id) && target.token_type(id) == drafter.token_type(id) &&
        target.token_bytes(id) == drafter.token_bytes(id)) {
      match(id, id);
    }
  }
  const auto ordinary = by_bytes(drafter, false), bytes = by_bytes(drafter, true);
  for (const bool byte_tokens : {false, true}) {
    for (TokenId t = 0; t < target.size(); ++t) {
      if (!spells(target, t) || (target.token_type(t) == TokenType::Byte) != byte_tokens) continue;
      for (const auto* candidates : {byte_tokens ? &bytes : &ordinary, byte_tokens ? &ordinary : &bytes}) {
        const auto found = candidates->find(target.token_bytes(t));
        if (found != candidates->end()) match(t, found->second);
      }
    }
  }
  // Control tokens of the same id and text; others by their role, then by their text. A token may have both roles; what
  // ends a text comes first.
  for (TokenId id = 0; id < target.size() && id < drafter.size(); ++id) {
    if (target.token_type(id) == TokenType::Control && drafter.token_type(id) == TokenType::Control &&
        target.token_text(id) == drafter.token_text(id)) {
      match(id, id);
    }
  }
  if (target.eos() && drafter.eos()) match(*target.eos(), *drafter.eos());
  if (target.bos() && drafter.bos()) match(*target.bos(), *drafter.bos());
  for (TokenId t = 0; t < target.size(); ++t) {
    if (target.token_type(t) != TokenType::Control) continue;
    const auto d = drafter.find(target.token_text(t));
    if (d && drafter.token_type(*d) == TokenType::Control) match(t, *d);
  }
  for (TokenId t = 0; t < target.size() && identity_; ++t) {
    const TokenType type = target.token_type(t);
    const bool used = type != TokenType::Unused && type != TokenType::Undefined && type != TokenType::Unknown;
    identity_ = to_drafter(t) == t || !used;
  }
}

}  // namespace frspec
