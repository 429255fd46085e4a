// Tokens that are known by their text, as llama.cpp knows them: converters often name one of several, and some write
// them with the wrong type.
#include <algorithm>
#include <array>
#include <span>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/vocabulary.h"

namespace frspec {
namespace {

constexpr std::array<std::string_view, 3> kEndKeys = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                                      "tokenizer.ggml.eom_token_id"};

constexpr std::string_view kStrikeTag = "</s>";  // EOS of SentencePiece; elsewhere perhaps a tag of HTML
constexpr std::string_view kEnds[] = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    kStrikeTag,
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",  // DeepSeek's, with a wide bar and U+2581
    "[e~[",
};

// Tokens around code to fill in: by text where no key names one.
struct FillRole {
  std::string_view key;
  bool ends;  // the generation
  std::array<std::string_view, 5> texts;
};
// Those written <|...|> are control tokens anyway.
constexpr FillRole kFillRoles[] = {
    {"tokenizer.ggml.fim_pre_token_id",
     false,
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "\xE2\x96\x81<PRE>"}},
    {"tokenizer.ggml.fim_suf_token_id",
     false,
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "\xE2\x96\x81<SUF>"}},
    {"tokenizer.ggml.fim_mid_token_id",
     false,
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "\xE2\x96\x81<MID>"}},
    {"tokenizer.ggml.fim_pad_token_id", true, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
    {"tokenizer.ggml.fim_rep_token_id", true, {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
    {"tokenizer.ggml.fim_sep_token_id", true, {"<|file_sep|>"}},
};

// Written like a mark, as most vocabularies write theirs. llama.cpp's converters go by this, too.
bool looks_like_mark(std::string_view text) {
  constexpr std::string_view kWideOpen = "<\xEF\xBD\x9C", kWideClose = "\xEF\xBD\x9C>";
  return text == "<start_of_turn>" || (text.size() > 4 && text.starts_with("<|") && text.ends_with("|>")) ||
         (text.size() > 8 && text.starts_with(kWideOpen) && text.ends_with(kWideClose));
}

// Calls use(id, whether generation ends with it) for the tokens that are known by their text.
template <class Use>
void for_each_known(const GgufFile& file, const Vocabulary& vocabulary, const Use& use) {
  const auto look_up = [&](std::string_view text, bool ends) {
    const TokenId id = text.empty() ? StringIndex::kNone : vocabulary.by_text.find(text);
    if (id != StringIndex::kNone) use(id, ends);
  };
  for (const std::string_view text : kEnds) look_up(text, true);
  for (const FillRole& role : kFillRoles) {
    if (find_token_id(file, role.key, vocabulary.size())) continue;
    for (const std::string_view text : role.texts) look_up(text, role.ends);
  }
}

// Calls use(id) for the tokens that the file names as ends of texts, turns and messages.
template <class Use>
void for_each_named_end(const GgufFile& file, const Vocabulary& vocabulary, const Use& use) {
  for (const std::string_view key : kEndKeys) {
    if (const auto id = find_token_id(file, key, vocabulary.size())) use(*id);
  }
  if (vocabulary.eos) use(*vocabulary.eos);
}

}  // namespace

void correct_types(const GgufFile& file, IsSpelled is_spelled, Vocabulary& vocabulary) {
  const auto type_of = [&](TokenId id) -> TokenType& { return vocabulary.types[static_cast<std::size_t>(id)]; };
  const auto text_of = [&](TokenId id) { return vocabulary.texts[static_cast<std::size_t>(id)]; };
  std::vector<TokenId> wrong;
  TokenType first_type = {};
  const auto check = [&](TokenId id) {
    const TokenType type = type_of(id);
    if (type == TokenType::Control || type == TokenType::Unknown || type == TokenType::Byte) return;
    if (type != TokenType::UserDefined && is_spelled(file, vocabulary, id)) return;
    if (wrong.empty()) first_type = type;
    type_of(id) = TokenType::Control;
    wrong.push_back(id);
  };
  for_each_named_end(file, vocabulary, check);
  if (vocabulary.bos) check(*vocabulary.bos);
  for_each_known(file, vocabulary, [&](TokenId id, bool) {
    if (text_of(id) != kStrikeTag || type_of(id) != TokenType::UserDefined) check(id);
  });
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    if (type_of(id) <= TokenType::Normal && looks_like_mark(text_of(id))) check(id);
  }
  if (wrong.empty()) return;
  const TokenId first = wrong.front();
  file.warn(concat("key 'tokenizer.ggml.token_type': found type ", static_cast<int>(first_type), " for token ", first,
                   ", ", quoted(text_of(first)),
                   wrong.size() == 1 ? std::string() : concat(", and the like for ", wrong.size() - 1, " more"),
                   ", expected 3: taken for control tokens, as their texts say"));
}

void find_end_of_generation(const GgufFile& file, Vocabulary& vocabulary) {
  vocabulary.ends_generation.assign(vocabulary.texts.size(), false);
  const auto mark = [&](TokenId id) { vocabulary.ends_generation[static_cast<std::size_t>(id)] = true; };
  for_each_named_end(file, vocabulary, mark);
  for (const FillRole& role : kFillRoles) {
    const auto id = find_token_id(file, role.key, vocabulary.size());
    if (id && role.ends) mark(*id);
  }
  // A text alone says nothing: ordinary tokens, which any prompt may hold, end nothing.
  const auto is_control = [&](TokenId id) {
    return vocabulary.types[static_cast<std::size_t>(id)] == TokenType::Control;
  };
  for_each_known(file, vocabulary, [&](TokenId id, bool ends) {
    if (ends && is_control(id)) mark(id);
  });
  // In vocabularies of this family <|end|> closes a part of an answer only.
  const auto find = [&](std::string_view text) {
    const TokenId id = vocabulary.by_text.find(text);
    return id != StringIndex::kNone && is_control(id) ? id : StringIndex::kNone;
  };
  const auto has = [&](std::string_view text) { return find(text) != StringIndex::kNone; };
  const TokenId end = find("<|end|>");
  if (end != StringIndex::kNone && (has("<|call|>") || has("<|calls|>")) && (has("<|return|>") || has("<|flush|>"))) {
    vocabulary.ends_generation[static_cast<std::size_t>(end)] = false;
  }
}

// GGUF has no key for it. llama.cpp goes by the name of the model: Phi-3's tokenizer says so of all special tokens but
// these.
void find_space_eaters(const GgufFile& file, Vocabulary& vocabulary) {
  constexpr std::array<std::string_view, 3> kOthers = {"<unk>", "<s>", "<|endoftext|>"};
  std::string name(file.find_string("general.name").value_or(""));
  std::ranges::transform(name, name.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (name.find("phi-3") == std::string::npos && name.find("phi3") == std::string::npos) return;
  vocabulary.eats_space.assign(vocabulary.texts.size(), true);
  for (const std::string_view text : kOthers) {
    const TokenId id = vocabulary.by_text.find(text);
    if (id != StringIndex::kNone) vocabulary.eats_space[static_cast<std::size_t>(id)] = false;
  }
}

}  // namespace frspec
