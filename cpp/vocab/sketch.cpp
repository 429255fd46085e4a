#include "vocab/sketch.h"

#include <string>

#include "base/error.h"

namespace frspec {
namespace {

constexpr const char* kDown = "sketch_down.weight";
constexpr const char* kVocab = "sketch_vocab.weight";

WeightSource source_of(const std::shared_ptr<const GgufFile>& file, const GgufTensor& tensor) {
  return {file->path().string(),
          std::string(tensor.name),
          tensor.type,
          tensor.shape[1],
          tensor.shape[0],
          tensor.data,
          file};
}

}  // namespace

bool has_sketch(const GgufFile& file) { return file.find_tensor(kDown) != nullptr; }

Sketch read_sketch(const std::shared_ptr<const GgufFile>& file, Backend& backend, const Tokenizer& target,
                   std::int64_t rows, std::int64_t dim) {
  const std::string path = file->path().string();
  const auto fingerprint = file->find_string("frspec.sketch.vocab_fingerprint");
  if (fingerprint && *fingerprint != target.fingerprint()) {
    fail(path, ": key 'frspec.sketch.vocab_fingerprint': found ", *fingerprint, ", expected ", target.fingerprint(),
         ": the sketch was made for another vocabulary than the target's");
  }
  const GgufTensor &down = file->tensor(kDown), &vocab = file->tensor(kVocab);
  const std::int64_t rank = down.shape[1];
  for (const GgufTensor* tensor : {&down, &vocab}) {
    if (tensor->dims != 2) {
      fail(path, ": tensor '", tensor->name, "': found ", tensor->dims, " dimensions, expected 2");
    }
  }
  if (down.shape[0] != dim) {
    fail(path, ": tensor '", kDown, "': found ", down.shape[0], " columns, expected ", dim,
         ", the width of the drafter's states");
  }
  if (vocab.shape[0] != rank || vocab.shape[1] != rows) {
    fail(path, ": tensor '", kVocab, "': found shape (", vocab.shape[1], ", ", vocab.shape[0], "), expected (", rows,
         ", ", rank, "): a row for each of the head's, as wide as '", kDown, "' has rows");
  }
  return {backend.load(source_of(file, down)), backend.load(source_of(file, vocab))};
}

}  // namespace frspec
