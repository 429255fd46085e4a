// Decoding token by token, in whole characters.
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace frspec {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::size_t kUsualBytes = 256;                   // no usual token has more

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool begins_text)
    : tokenizer_(&tokenizer), begins_text_(begins_text && tokenizer.strips_leading_space()), at_start_(begins_text_) {
  pending_.reserve(kUsualBytes);
  text_.reserve(kUsualBytes);
}

std::string_view StreamDecoder::push(TokenId id) {
  pending_ += tokenizer_->spelled(id, false, at_start_);
  text_.clear();
  std::size_t at = 0;
  while (at < pending_.size()) {
    const Utf8Unit unit = utf8_unit(pending_, at);
    if (unit.kind == Utf8Unit::Kind::CutOff) break;
    if (unit.kind == Utf8Unit::Kind::Whole) {
      text_.append(pending_, at, unit.bytes);
    } else {
      text_ += kReplacement;
    }
    at += unit.bytes;
  }
  pending_.erase(0, at);
  return text_;
}

std::string StreamDecoder::finish() {
  std::string text(pending_.empty() ? std::string_view() : kReplacement);
  pending_.clear();
  at_start_ = begins_text_;
  return text;
}

}  // namespace frspec
