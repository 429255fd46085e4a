// What all tokenizers share: special tokens around and inside a text, and the way back to bytes.
#include "tokenizer/tokenizer.h"

#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/characters.h"
#include "tokenizer/models.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace frspec {
namespace {

struct Model {
  std::string_view name;
  std::unique_ptr<const Tokenizer> (*load)(const GgufFile& file);
};
constexpr Model kModels[] = {{"gpt2", load_bpe}, {"llama", load_spm}};

void check_text(std::string_view text) {
  const std::size_t at = first_invalid_utf8(text);
  if (at != text.size()) {
    fail("text: found ", quoted(text.substr(at, 1)), " at byte offset ", at, ", expected valid UTF-8");
  }
  // Positions in a text are kept in 32 bits.
  constexpr std::size_t kMaxBytes = std::numeric_limits<std::int32_t>::max();
  if (text.size() >= kMaxBytes) fail("text: found ", text.size(), " bytes, expected fewer than 2^31 - 1");
}

std::size_t end_of_whitespace(std::string_view text, std::size_t at) {
  const char* const end = text.data() + text.size();
  const auto here = [&] { return char_at(text.data() + at, end); };
  while (here().is(kWhitespace)) at += here().bytes;
  return at;
}

}  // namespace

std::unique_ptr<const Tokenizer> Tokenizer::load(const GgufFile& file) {
  const std::string_view name = file.get_string("tokenizer.ggml.model");
  std::string known;
  for (const Model& model : kModels) {
    if (model.name == name) return model.load(file);
    known += concat(known.empty() ? "" : ", ", model.name);
  }
  fail(printable(file.path().string()), ": key 'tokenizer.ggml.model': found ", quoted(name), ", expected one of ",
       known);
}

Tokenizer::Tokenizer(Vocabulary&& vocabulary)
    : vocabulary_(std::make_unique<const Vocabulary>(std::move(vocabulary))) {}
Tokenizer::~Tokenizer() = default;

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
  check_text(text);
  const Vocabulary& vocabulary = *vocabulary_;
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 4);
  const bool adds_bos = add_special && vocabulary.adds_bos;
  if (adds_bos) ids.push_back(*vocabulary.bos);
  const TextMatcher& matcher = parse_special ? vocabulary.special : vocabulary.user_defined;
  std::size_t at = 0;
  while (!matcher.empty()) {
    const TextMatcher::Match match = matcher.find(text, at);
    if (match.id == StringIndex::kNone) break;
    if (match.begin > at) encode_fragment(text.substr(at, match.begin - at), ids);
    // Templates and model cards write BOS themselves: it is there already.
    const bool again = adds_bos && match.begin == 0 && match.id == *vocabulary.bos;
    if (!again) ids.push_back(match.id);
    at = match.end;
    if (vocabulary.eats_space_behind(match.id)) at = end_of_whitespace(text, at);
  }
  if (at < text.size()) encode_fragment(text.substr(at), ids);
  if (add_special && vocabulary.adds_eos) ids.push_back(*vocabulary.eos);
  return ids;
}

std::string_view Tokenizer::spelled(TokenId id, bool special, bool& at_start) const {
  check_id(id);
  if (!special && vocabulary_->is_silent(id)) return {};
  std::string_view bytes = token_bytes(id);
  if (bytes.empty()) return bytes;
  if (at_start && bytes.front() == ' ' && token_type(id) != TokenType::UserDefined) bytes.remove_prefix(1);
  at_start = false;
  return bytes;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  bool at_start = strips_leading_space();
  for (const TokenId id : ids) text += spelled(id, special, at_start);
  return text;
}

void Tokenizer::check_id(TokenId id) const {
  if (id < 0 || id >= size()) fail("token id: found ", id, ", expected 0 to ", size() - 1);
}

const std::string& Tokenizer::token_bytes(TokenId id) const {
  check_id(id);
  return vocabulary_->bytes[static_cast<std::size_t>(id)];
}

std::string_view Tokenizer::token_text(TokenId id) const {
  check_id(id);
  return vocabulary_->texts[static_cast<std::size_t>(id)];
}

TokenType Tokenizer::token_type(TokenId id) const {
  check_id(id);
  return vocabulary_->types[static_cast<std::size_t>(id)];
}

float Tokenizer::score(TokenId id) const {
  check_id(id);
  return vocabulary_->scores.empty() ? 0.0F : vocabulary_->scores[static_cast<std::size_t>(id)];
}

std::optional<TokenId> Tokenizer::find(std::string_view token_text) const {
  const TokenId id = vocabulary_->by_text.find(token_text);
  return id == StringIndex::kNone ? std::nullopt : std::optional(id);
}

bool Tokenizer::is_end_of_generation(TokenId id) const {
  check_id(id);
  return vocabulary_->ends_generation[static_cast<std::size_t>(id)];
}

std::int32_t Tokenizer::size() const { return vocabulary_->size(); }
std::optional<TokenId> Tokenizer::bos() const { return vocabulary_->bos; }
std::optional<TokenId> Tokenizer::eos() const { return vocabulary_->eos; }
bool Tokenizer::adds_bos() const { return vocabulary_->adds_bos; }
bool Tokenizer::strips_leading_space() const { return vocabulary_->adds_space_prefix; }
std::string_view Tokenizer::model() const { return vocabulary_->model; }
std::string_view Tokenizer::pre() const { return vocabulary_->pre; }
std::optional<std::string_view> Tokenizer::chat_template(std::string_view name) const {
  const auto found = vocabulary_->chat_templates.find(name);
  return found == vocabulary_->chat_templates.end() ? std::nullopt : std::optional<std::string_view>(found->second);
}
std::vector<std::string_view> Tokenizer::chat_template_names() const {
  std::vector<std::string_view> names;
  for (const auto& [name, source] : vocabulary_->chat_templates) names.push_back(name);
  return names;
}
const std::string& Tokenizer::fingerprint() const { return vocabulary_->fingerprint; }

}  // namespace frspec
