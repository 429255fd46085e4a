// Which tokens end a generation: those that the file names, and those that are known by their text, because many files
// name only one of several.
#include <algorithm>
#include <array>

#include "tokenizer/vocabulary.h"

namespace frspec {
namespace {

constexpr std::array<std::string_view, 6> kIdKeys = {
    "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",     "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.fim_pad_token_id", "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
};

// As llama.cpp knows them.
constexpr std::string_view kTexts[] = {
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
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",  // DeepSeek's, with a wide bar and U+2581
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<|file_sep|>",
};

}  // namespace

void find_end_of_generation(const GgufFile& file, Vocabulary& vocabulary) {
  vocabulary.ends_generation.assign(vocabulary.texts.size(), false);
  for (const std::string_view key : kIdKeys) {
    if (const auto id = find_token_id(file, key, vocabulary.size())) vocabulary.ends_generation[*id] = true;
  }
  if (vocabulary.eos) vocabulary.ends_generation[*vocabulary.eos] = true;
  // A text alone says nothing: ordinary tokens, which any prompt may hold, end nothing.
  const auto special_token = [&vocabulary](std::string_view text) {
    const TokenId id = vocabulary.by_text.find(text);
    if (id == StringIndex::kNone) return id;
    const TokenType type = vocabulary.types[static_cast<std::size_t>(id)];
    return type == TokenType::Control || type == TokenType::UserDefined ? id : StringIndex::kNone;
  };
  for (const std::string_view text : kTexts) {
    const TokenId id = special_token(text);
    if (id != StringIndex::kNone) vocabulary.ends_generation[id] = true;
  }
  // In vocabularies of this family <|end|> closes a part of an answer only.
  const auto has = [&](std::string_view text) { return special_token(text) != StringIndex::kNone; };
  const bool has_call = has("<|call|>") || has("<|calls|>");
  const TokenId end = special_token("<|end|>");
  if (end != StringIndex::kNone && has_call && (has("<|return|>") || has("<|flush|>"))) {
    vocabulary.ends_generation[end] = false;
  }
}

}  // namespace frspec
