// A model is made on a backend that only counts, and its tokenizer is read.
#include "cli/verdict.h"

#include <algorithm>
#include <functional>

#include "backend/planning_backend.h"
#include "backend/registry.h"
#include "base/error.h"
#include "draft/mtp.h"
#include "engine/options.h"
#include "model/causal_model.h"
#include "model/config.h"
#include "tensor/dequantize.h"
#include "tokenizer/tokenizer.h"

namespace frspec {
namespace {

// Adds what `check` throws.
void collect(std::vector<std::string>& reasons, const std::function<void()>& check) {
  try {
    check();
  } catch (const Error& error) {
    reasons.emplace_back(error.what());
  }
}

// The rows of the embedding.
int check_model(const std::shared_ptr<const GgufFile>& file) {
  const auto device = make_backend({"cpu", 1});
  PlanningBackend plan(*device);
  const int context = std::min(read_causal_config(*file).context, kDefaultContext);
  const CausalModel model(file, plan, {.context = context, .rows = 1, .logit_rows = 1});
  return model.config().vocab;
}

// Its shapes are those of the target, which is not here.
void check_drafter(const GgufFile& file) {
  if (is_mtp(file)) {
    (void)read_mtp_config(file);
  } else if (file.get_string("general.architecture") == "eagle3") {
    (void)read_eagle3_config(file);
    (void)read_eagle3_options(file);
  } else {
    (void)read_eagle2_config(file);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    // Matrices of weights: what else there is has types of its own.
    if (tensor.dims != 2 || !tensor.name.ends_with(".weight")) continue;
    WeightSource source;
    source.file = file.path().string();
    source.name = tensor.name;
    source.type = tensor.type;
    check_weight_type(source);
  }
}

}  // namespace

FileVerdict judge(const std::shared_ptr<const GgufFile>& file) {
  FileVerdict verdict{.use = "a model", .reasons = {}};
  const bool has_vocabulary = file->find("tokenizer.ggml.tokens") != nullptr;
  bool goes_alone = false;
  int rows = 0;
  collect(verdict.reasons, [&] {
    if (file->tensors().empty()) fail(file->path().string(), ": found no tensors, expected those of a model");
    goes_alone = is_causal(*file) && !is_mtp_alone(*file);
    if (goes_alone) {
      if (is_mtp(*file)) verdict.use = concat("a model that brings a drafter along (-d ", kOwnDrafter, ")");
      rows = check_model(file);
    } else {
      verdict.use = "a drafter beside its target";
      check_drafter(*file);
    }
  });
  if (!goes_alone && !has_vocabulary) return verdict;  // it goes by its target's
  collect(verdict.reasons, [&] {
    const auto tokenizer = Tokenizer::load(*file);
    if (rows > 0) check_embedding_rows(*file, rows, *tokenizer);
  });
  return verdict;
}

}  // namespace frspec
