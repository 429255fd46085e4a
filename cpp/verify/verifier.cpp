// Verification.
#include "verify/verifier.h"

namespace frspec {

Verifier::Verifier(Backend& backend, int max_size, int max_depth)
    : backend_(backend),
      max_path_(max_depth + 1),
      sampled_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(max_size))),
      record_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(1 + 2 * max_path_))),
      host_(static_cast<std::size_t>(1 + 2 * max_path_)) {
  auto* record = record_.as<std::int32_t>();
  view_ = VerdictView{record, record + 1, record + 1 + max_path_};
  verdict_.nodes.reserve(static_cast<std::size_t>(max_path_));
  verdict_.tokens.reserve(static_cast<std::size_t>(max_path_));
}

const std::int32_t* Verifier::sample(const Rows& rows, Tensor hidden, const Weight& head, const Sampling& sampling) {
  backend_.head_sample(sampled_.as<std::int32_t>(), hidden, head, rows, sampling);
  return sampled_.as<std::int32_t>();
}

const VerdictView& Verifier::verify(const TreeView& tree, const Rows& rows, Tensor hidden, const Weight& head,
                                    const Sampling& sampling) {
  sample(rows, hidden, head, sampling);
  auto* sampled = sampled_.as<std::int32_t>();
  if (pretended_ >= 0.0f) backend_.pretend_acceptance(sampled, tree, rows, pretended_, sampling.seed);
  backend_.verify(view_, tree, sampled);
  return view_;
}

const Verdict& Verifier::read() {
  backend_.download(host_.data(), record_.as<void>(), host_.size() * sizeof(std::int32_t));
  const auto nodes = host_.begin() + 1;
  const auto tokens = nodes + max_path_;
  verdict_.nodes.assign(nodes, nodes + host_[0]);
  verdict_.tokens.assign(tokens, tokens + host_[0]);
  return verdict_;
}

}  // namespace frspec
