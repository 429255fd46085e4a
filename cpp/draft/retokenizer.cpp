#include "draft/retokenizer.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace frspec {
namespace {

constexpr std::size_t kLookBehind = 8;  // tokens that are encoded again, at least
constexpr std::size_t kSettling = 2;    // of them, first ones that may differ because the text before them is missing

struct Encoded {
  std::vector<TokenId> ids;
  std::vector<std::size_t> ends;  // byte of the text behind each
};

// `text` in the middle or at the beginning of another. A tokenizer that puts a space before a text is given one that
// has it already, where it can be, and what it puts before others is left out of the count of bytes.
Encoded encode_part(const Tokenizer& tokenizer, std::string_view text, bool at_start) {
  Encoded result;
  const bool adds_space = tokenizer.strips_leading_space();
  const bool has_space = adds_space && !at_start && text.starts_with(' ');
  result.ids = tokenizer.encode(has_space ? text.substr(1) : text, false, false);
  std::size_t at = 0;
  bool first = true;
  for (const TokenId id : result.ids) {
    std::size_t size = tokenizer.token_bytes(id).size();
    if (first && adds_space && !has_space && size > 0 && tokenizer.token_bytes(id).front() == ' ') --size;
    first = false;
    at = std::min(at + size, text.size());
    result.ends.push_back(at);
  }
  return result;
}

}  // namespace

std::size_t whole_characters(std::string_view bytes) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Unit unit = utf8_unit(bytes, at);
    if (unit.kind != Utf8Unit::Kind::Whole) break;
    at += unit.bytes;
  }
  return at;
}

void Retokenizer::begin() {
  tokens_.clear();
  ends_.clear();
  text_.clear();
  held_.clear();
  first_token_ = 0;
  at_start_ = true;
  if (to_.adds_bos() && to_.bos()) {
    tokens_.push_back(*to_.bos());
    ends_.push_back(0);
    first_token_ = 1;
  }
}

std::size_t Retokenizer::push(std::span<const TokenId> tokens) {
  kept_ = tokens_.size();
  for (const TokenId id : tokens) {
    if (from_.token_type(id) != TokenType::Control) {
      std::string_view bytes = from_.token_bytes(id);
      if (at_start_ && from_.strips_leading_space() && bytes.starts_with(' ')) bytes.remove_prefix(1);
      at_start_ = at_start_ && from_.token_bytes(id).empty();
      held_ += bytes;
      continue;
    }
    encode_end();
    held_.clear();
    const TokenId other = alignment_.to_drafter(id);
    // The drafter's own BOS stands at the beginning already.
    const bool is_first_bos = other != VocabularyAlignment::kNone && tokens_.size() == 1 && tokens_[0] == other;
    if (other != VocabularyAlignment::kNone && !is_first_bos) {
      tokens_.push_back(other);
      ends_.push_back(0);
    }
    text_.clear();
    first_token_ = tokens_.size();
  }
  encode_end();
  return kept_;
}

void Retokenizer::encode_end() {
  while (!held_.empty()) {
    const std::size_t whole = whole_characters(held_);
    add_text(std::string_view(held_).substr(0, whole));
    held_.erase(0, whole);
    if (held_.empty() || utf8_unit(held_, 0).kind == Utf8Unit::Kind::CutOff) return;
    held_.erase(0, utf8_unit(held_, 0).bytes);  // no text: the drafter does without it
  }
}

void Retokenizer::add_text(std::string_view bytes) {
  if (bytes.empty()) return;
  text_ += bytes;
  // Encode from some tokens back; among the borders that the old tokens and the new ones share take the earliest that
  // has settled.
  const std::size_t count = tokens_.size() - first_token_;
  std::size_t back = std::min(count, kLookBehind);
  // The window must begin at a character.
  const auto end_of = [&](std::size_t local) { return local == 0 ? 0 : ends_[first_token_ + local - 1]; };
  const auto is_border = [&](std::size_t at) {
    return at == text_.size() || (static_cast<unsigned char>(text_[at]) & 0xC0) != 0x80;
  };
  while (back < count && !is_border(end_of(count - back))) ++back;
  const std::size_t begin_token = count - back;
  const std::size_t begin = begin_token == 0 ? 0 : end_of(begin_token);
  const bool from_start = begin_token == 0;
  const Encoded fresh = encode_part(to_, std::string_view(text_).substr(begin), from_start && first_token_ <= 1);
  std::size_t take = 0, keep = begin_token;  // fresh[take...] goes behind local token `keep`
  if (!from_start) {
    std::size_t old = begin_token;
    bool aligned = false;
    for (std::size_t i = kSettling - 1; i < fresh.ends.size() && !aligned; ++i) {
      while (old < count && end_of(old + 1) < begin + fresh.ends[i]) ++old;
      if (old < count && end_of(old + 1) == begin + fresh.ends[i]) {
        aligned = true;
        take = i + 1;
        keep = old + 1;
      }
    }
    if (!aligned) {
      // No common border in the window: the whole text since the last control token.
      const Encoded all = encode_part(to_, text_, first_token_ <= 1);
      kept_ = std::min(kept_, first_token_);
      tokens_.resize(first_token_);
      ends_.resize(first_token_);
      tokens_.insert(tokens_.end(), all.ids.begin(), all.ids.end());
      ends_.insert(ends_.end(), all.ends.begin(), all.ends.end());
      return;
    }
  }
  // Old tokens that say the same stay, and so does what was computed of them.
  std::size_t same = first_token_ + keep, next = take;
  while (same < tokens_.size() && next < fresh.ids.size() && tokens_[same] == fresh.ids[next]) ++same, ++next;
  kept_ = std::min(kept_, same);
  tokens_.resize(same);
  ends_.resize(same);
  for (; next < fresh.ids.size(); ++next) {
    tokens_.push_back(fresh.ids[next]);
    ends_.push_back(begin + fresh.ends[next]);
  }
}

std::vector<TokenId> encode_behind(const Tokenizer& tokenizer, std::string_view context, std::string_view text) {
  const std::string all = std::string(context) + std::string(text);
  const Encoded whole = encode_part(tokenizer, all, false);
  for (std::size_t i = 0; i < whole.ids.size(); ++i) {
    if (whole.ends[i] == context.size()) {
      return {whole.ids.begin() + static_cast<std::ptrdiff_t>(i) + 1, whole.ids.end()};
    }
  }
  return encode_part(tokenizer, text, false).ids;
}

}  // namespace frspec
