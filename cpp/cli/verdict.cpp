// A model or a drafter is made on a backend that only counts, and its tokenizer is read.
#include "cli/verdict.h"

#include <algorithm>
#include <functional>

#include "backend/planning_backend.h"
#include "backend/registry.h"
#include "base/error.h"
#include "base/text.h"
#include "draft/eagle2.h"
#include "draft/eagle3.h"
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

// A head of the drafter's own may have any number of rows.
void check_head(WeightLoader& loader, const std::string& name, int dim) {
  if (loader.has(name)) check_weight_type(loader.source(name, loader.file().tensor(name).shape[1], dim));
}

// Its target is not here: the sizes that are the target's, too, are those that the file states.
void check_drafter(const std::shared_ptr<const GgufFile>& file) {
  const auto device = make_backend({"cpu", 1});
  PlanningBackend plan(*device);
  WeightLoader loader(file, plan);
  const auto context = [](const ModelConfig& config) { return std::min(config.context, kDefaultContext); };
  if (is_mtp(*file)) {
    ModelConfig config = read_mtp_config(*file);
    const GgufTensor* embedding = file->find_tensor(mtp_tensor(config, "nextn.embed_tokens.weight"));
    if (embedding != nullptr) config.vocab = static_cast<int>(embedding->shape[1]);
    (void)read_mtp_weights(loader, config, context(config));
    check_head(loader, mtp_tensor(config, "nextn.shared_head_head.weight"), config.dim);
    if (is_mtp_alone(*file)) check_head(loader, "output.weight", config.dim);
  } else if (file->get_string("general.architecture") == "eagle3") {
    const ModelConfig config = read_eagle3_config(*file);
    (void)read_eagle3_weights(loader, config, read_eagle3_options(*file), context(config));
    check_head(loader, "output.weight", config.dim);
  } else {
    const ModelConfig config = read_eagle2_config(*file);
    (void)read_eagle2_weights(loader, config, context(config));
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
      rows = check_model(file);
      if (!is_mtp(*file)) return;
      std::vector<std::string> faults;  // of the drafter alone: the model runs without it
      collect(faults, [&] { check_drafter(file); });
      verdict.use = faults.empty()
                        ? concat("a model that brings a drafter along (-d ", kOwnDrafter, ")")
                        : concat("a model, without the drafter that it brings along: ", printable(faults[0]));
    } else {
      verdict.use = "a drafter beside its target";
      check_drafter(file);
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
