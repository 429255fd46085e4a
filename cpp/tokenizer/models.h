// The kinds of tokenizers: one entry per value of tokenizer.ggml.model.
#pragma once

#include <memory>

#include "tokenizer/tokenizer.h"

namespace frspec {

std::unique_ptr<const Tokenizer> load_bpe(const GgufFile& file);  // "gpt2" (bpe.cpp)
std::unique_ptr<const Tokenizer> load_spm(const GgufFile& file);  // "llama" (spm.cpp)

}  // namespace frspec
