// A low-rank sketch of an LM head: E ~ W_vocab W_down, with W_down (d', d) and W_vocab (V, d'). Its scores tell which
// few rows of E are worth a product (SpecVocab, 2602.13836, section 3); see docs/heads.md for how it is made.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "backend/backend.h"
#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

struct Sketch {
  std::unique_ptr<Weight> down;   // (d', d)
  std::unique_ptr<Weight> vocab;  // (V, d')
};

// Whether a file holds a sketch.
bool has_sketch(const GgufFile& file);
// The sketch of a file, for a head of `rows` rows that are `dim` wide. Throws InvalidInput where it was made for
// another head, or another vocabulary than the target's.
Sketch read_sketch(const std::shared_ptr<const GgufFile>& file, Backend& backend, const Tokenizer& target,
                   std::int64_t rows, std::int64_t dim);

}  // namespace frspec
