#include "verify/verifier.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {

Verifier::Verifier(Backend& backend, CausalModel& target, int max_size, int max_depth, int most)
    : backend_(backend),
      target_(target),
      max_path_(max_depth + 1),
      sampled_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(max_size))),
      max_size_(max_size),
      most_(most) {
  allocate_record();
  allocate_several();
  verdict_.nodes.reserve(static_cast<std::size_t>(max_path_));
  verdict_.tokens.reserve(static_cast<std::size_t>(max_path_));
}

void Verifier::allocate_record() {
  host_.resize(static_cast<std::size_t>(1 + 2 * max_path_ + max_size_ * noted_));
  record_ = backend_.allocate(host_.size() * sizeof(std::int32_t));
  auto* record = record_.as<std::int32_t>();
  view_ = VerdictView{record, record + 1, record + 1 + max_path_};
  noted_ids_ = record + 1 + 2 * max_path_;
}

const std::int32_t* Verifier::sample(const Rows& rows, Tensor hidden, const std::int32_t* tokens,
                                     const Sampler& sampler) {
  auto* sampled = sampled_.as<std::int32_t>();
  last_.notes_logits = false;
  const BestTokens noted{.ids = noted_ids_, .scores = noted_scores_.as<float>(), .k = noted_};
  if (sampler.chain().is_plain() && !rows.allowed) {
    backend_.head_sample(sampled, hidden, target_.head(), rows, sampler.draw(), noted_ > 0 ? &noted : nullptr);
    return sampled;
  }
  const int block = target_.limits().logit_rows;
  for (int row = 0; row < rows.count; row += block) {
    const Rows some = rows.range(row, std::min(block, rows.count - row));
    const Tensor logits = target_.logits(hidden.row_range(row, some.count));
    backend_.process(logits, some, tokens, sampler.chain());
    backend_.sample(sampled + row, logits, some, sampler.draw_after_chain());
    if (noted_ > 0) backend_.top_k(noted.ids + std::ptrdiff_t{row} * noted_, noted.scores, noted_, logits, nullptr);
  }
  return sampled;
}

void Verifier::expect(const DraftTree& tree) { last_ = {.size = static_cast<std::size_t>(tree.size())}; }

const VerdictView& Verifier::verify(const DraftTree& tree, Tensor hidden, const Sampler& sampler) {
  expect(tree);
  const Rows rows = tree.rows(target_.cache().sequence());
  const bool drawn = !sampler.chain().is_plain() || sampler.draw().temperature > 0.0f || rows.allowed;
  if (drawn && pretended_ < 0.0f && tree.size() <= target_.limits().logit_rows) {
    const Tensor logits = target_.logits(hidden);
    backend_.verify_logits(view_, tree.view(), logits, rows, sampler.chain(), sampler.draw_after_chain());
    last_.notes_logits = true;
    return view_;
  }
  sample(rows, hidden, tree.view().tokens, sampler);
  auto* sampled = sampled_.as<std::int32_t>();
  if (pretended_ >= 0.0f) {
    backend_.instruments().pretend_acceptance(sampled, tree.view(), rows, pretended_, sampler.draw().seed);
  }
  backend_.verify(view_, tree.view(), sampled);
  return view_;
}

TokenId Verifier::choose(Tensor logits, const Rows& row, const Sampler& sampler, const LogitsProcessor& processor,
                         std::span<const TokenId> text) {
  host_logits_.resize(static_cast<std::size_t>(logits.cols));
  backend_.download(host_logits_.data(), logits.data, host_logits_.size() * sizeof(float));
  const bool finite = std::any_of(host_logits_.begin(), host_logits_.end(), [](float x) { return x > -1e38f; });
  processor(text, host_logits_);
  backend_.upload(logits.data, host_logits_.data(), host_logits_.size() * sizeof(float));
  auto* sampled = sampled_.as<std::int32_t>();
  backend_.sample(sampled, logits, row, sampler.draw_after_chain());
  TokenId token = -1;
  backend_.download(&token, sampled, sizeof token);
  if (token < 0 && finite) {
    throw Error(concat("logits processor: after token ", text.size(),
                       " of the text: found no finite largest value, expected at least one token that is left"));
  }
  return token;
}

TokenId Verifier::sample_one(const Rows& row, Tensor hidden, const std::int32_t* tokens, const Sampler& sampler,
                             const LogitsProcessor& processor, std::span<const TokenId> text) {
  const Tensor logits = target_.logits(hidden);
  backend_.process(logits, row, tokens, sampler.chain());
  return choose(logits, row, sampler, processor, text);
}

const VerdictView& Verifier::verify(const DraftTree& tree, Tensor hidden, const Sampler& sampler,
                                    const LogitsProcessor& processor, std::span<const TokenId> text) {
  expect(tree);
  walk(tree, tree.rows(target_.cache().sequence()), hidden, sampler, processor, text);
  backend_.verify(view_, tree.view(), sampled_.as<std::int32_t>());
  return view_;
}

void Verifier::walk(const DraftTree& tree, const Rows& rows, Tensor hidden, const Sampler& sampler,
                    const LogitsProcessor& processor, std::span<const TokenId> text) {
  const auto size = static_cast<std::size_t>(tree.size());
  std::vector<std::int32_t> tokens(size), parents(size);
  backend_.download(tokens.data(), tree.view().tokens, size * sizeof(std::int32_t));
  backend_.download(parents.data(), tree.view().parents, size * sizeof(std::int32_t));
  last_.notes_logits = false;
  // What the target would say after nodes that the walk does not reach is never asked.
  std::vector<std::int32_t> sampled(size, -1);
  std::vector<TokenId> sequence(text.begin(), text.end());
  std::size_t node = 0;
  for (bool walks = true; walks;) {
    const int index = static_cast<int>(node);
    const TokenId token =
        sample_one(rows.range(index, 1), hidden.row_range(index, 1), tree.view().tokens, sampler, processor, sequence);
    if (noted_ > 0) {
      backend_.top_k(noted_ids_ + std::ptrdiff_t{index} * noted_, noted_scores_.as<float>(), noted_,
                     target_.last_logits(1), nullptr);
    }
    sampled[node] = token;
    sequence.push_back(token);
    walks = false;
    for (std::size_t child = node + 1; child < size && !walks; ++child) {
      walks = parents[child] == index && tokens[child] == token;
      if (walks) node = child;
    }
  }
  backend_.upload(sampled_.as<void>(), sampled.data(), size * sizeof(std::int32_t));
}

const VerdictView& Verifier::verify_by_rejection(const DraftTree& tree, const Sampler& sampler,
                                                 const RejectionDraw& draw, bool block) {
  expect(tree);
  const Tensor logits = target_.logits(target_.hidden(tree.size()));
  backend_.verify_rejection(view_, tree.view(), logits, tree.rows(target_.cache().sequence()), sampler.chain(),
                            tree.proposals(), draw, block);
  last_.notes_logits = true;
  return view_;
}

void Verifier::post(int slot) {
  last_.copied = fixed_record() + (last_.notes_logits ? 0 : last_.size * static_cast<std::size_t>(noted_));
  backend_.post(slot, record_.as<void>(), last_.copied * sizeof(std::int32_t));
  posted_[static_cast<std::size_t>(slot)] = last_;
}

const Verdict& Verifier::read(int slot) {
  const Known& known = posted_[static_cast<std::size_t>(slot)];
  backend_.collect(slot, host_.data(), known.copied * sizeof(std::int32_t));
  const auto nodes = host_.begin() + 1;
  const auto tokens = nodes + max_path_;
  const std::int32_t count = host_[0];
  verdict_.nodes.assign(nodes, nodes + count);
  verdict_.tokens.assign(tokens, tokens + count);
  if (noted_ > 0) take_candidates(known, host_.data() + fixed_record());
  return verdict_;
}

void Verifier::note_candidates(int k) {
  noted_ = std::min(k, target_.config().vocab);
  allocate_record();
  candidates_.reserve(static_cast<std::size_t>(max_path_ * noted_));
  const int rows = std::max(target_.limits().logit_rows, most_ > 1 ? max_size_ : 0);
  noted_scores_ = backend_.allocate(sizeof(float) * static_cast<std::size_t>(noted_) * static_cast<std::size_t>(rows));
}

void Verifier::take_candidates(const Known& known, std::int32_t* noted) {
  candidates_.clear();
  if (known.notes_logits) {  // only now is known which rows the walk reached, and those alone were processed
    for (const std::int32_t node : verdict_.nodes) {
      const Tensor logits = target_.last_logits(node + 1).row_range(node, 1);
      backend_.top_k(noted_ids_ + std::ptrdiff_t{node} * noted_, noted_scores_.as<float>(), noted_, logits, nullptr);
    }
    backend_.download(noted, noted_ids_, known.size * static_cast<std::size_t>(noted_) * sizeof(std::int32_t));
  }
  for (const std::int32_t node : verdict_.nodes) add_candidates(noted + std::ptrdiff_t{node} * noted_);
}

void Verifier::add_candidates(const TokenId* best) {
  for (int i = noted_ - 1; i >= 0; --i) {
    if (best[i] >= 0) candidates_.push_back(best[i]);
  }
}

}  // namespace frspec
