// Finding the files of a model and its drafter.
#include "cli/model_files.h"

#include <utility>

#include "base/error.h"
#include "cli/demo_pair.h"
#include "cli/hub.h"

namespace frspec {

void ModelFiles::add_model(Arguments& options, std::string help) {
  options.option("-m, --model", "TARGET", model_, std::move(help));
}

void ModelFiles::add_drafter(Arguments& options, std::string help) {
  options.option("-d, --drafter, -md, --model-draft", "DRAFTER", drafter_, std::move(help));
}

void ModelFiles::add_hub(Arguments& options, bool with_drafter) {
  options.option("-hf, -hfr, --hf-repo", "USER/REPO[:QUANT]", repo_, "the model by its name on the Hugging Face Hub");
  if (with_drafter) {
    options.option("-hfd, -hfrd, --hf-repo-draft", "NAME", drafter_repo_, "the drafter, likewise");
  }
}

void ModelFiles::add_more(Arguments& options) {
  options.begin("More of the hub (QUANT is Q4_K_M, or else the first file)", true);
  options.option("-hff, --hf-file", "FILE", file_, "with -hf: that file of it; may be a pattern");
  options.option("-hft, --hf-token", "TOKEN", token_, "access token of the hub; default: HF_TOKEN, or as logged in");
  options.flag("--offline", offline_, "take only what is in the hub's cache");
}

ModelFiles::Paths ModelFiles::find() const {
  if (model_ && repo_) fail("-m, --model and -hf, --hf-repo: found both, expected one of them");
  if (drafter_ && drafter_repo_) fail("-d, --drafter and -hfd, --hf-repo-draft: found both, expected one of them");
  if (file_ && !repo_) fail("-hff, --hf-file: found no -hf, --hf-repo, expected both");
  const auto fetch = [this](const std::string& repo, const std::optional<std::string>& file, bool is_drafter) {
    return fetch_from_hub({repo, file, token_, is_drafter, offline_});
  };
  std::optional<std::filesystem::path> drafter = drafter_;
  if (!model_ && !repo_) {
    const DemoPair demo = find_demo_pair();
    if (drafter_repo_) drafter = fetch(*drafter_repo_, {}, true);
    return {demo.target, drafter ? drafter : demo.drafter};
  }
  const std::filesystem::path target = model_ ? std::filesystem::path(*model_) : fetch(*repo_, file_, false);
  if (drafter_repo_) drafter = fetch(*drafter_repo_, {}, true);
  return {target, drafter};
}

}  // namespace frspec
