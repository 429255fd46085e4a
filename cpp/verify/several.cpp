// Verification of several sequences' trees, the nodes of which were one pass of the target. Each is decided about as it
// is alone; but the head, which is much of the weights, is read once for many.
#include <algorithm>
#include <numeric>

#include "verify/verifier.h"

namespace frspec {
namespace {

std::size_t words(std::size_t count) { return count * sizeof(std::int32_t); }

}  // namespace

void Verifier::allocate_several() {
  const auto most = static_cast<std::size_t>(most_), size = static_cast<std::size_t>(max_size_);
  host_records_.resize(most * fixed_record());
  records_ = backend_.allocate(words(host_records_.size()));
  for (std::size_t i = 0; i < most; ++i) {
    std::int32_t* record = records_.as<std::int32_t>() + i * fixed_record();
    views_.push_back({record, record + 1, record + 1 + max_path_});
  }
  states_ = backend_.allocate(sizeof(float) * size * static_cast<std::size_t>(target_.config().dim));
  state_rows_ = backend_.allocate(words(size));
  noted_of_.resize(most);
}

std::vector<std::exception_ptr> Verifier::verify(std::span<const Asked> asked) {
  std::vector<std::exception_ptr> errors(asked.size());
  std::vector<std::size_t> best, drawn;
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const Sampler& sampler = *asked[i].sampler;
    noted_of_[i].clear();
    if (asked[i].processor != nullptr && *asked[i].processor) {
      try {
        ask(asked[i], i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    } else {
      const bool is_free = sampler.chain().is_plain() && sampler.draw().temperature == 0.0f;
      (is_free && !asked[i].tree->allowed() ? best : drawn).push_back(i);
    }
  }
  if (!best.empty()) choose_best(asked, best);
  if (!drawn.empty()) draw(asked, drawn);
  backend_.download(host_records_.data(), records_.as<void>(), words(asked.size() * fixed_record()));
  return errors;
}

const Verdict& Verifier::read_of(std::size_t asked) {
  const auto record = host_records_.begin() + static_cast<std::ptrdiff_t>(asked * fixed_record());
  const auto nodes = record + 1, tokens = nodes + max_path_;
  verdict_.nodes.assign(nodes, nodes + *record);
  verdict_.tokens.assign(tokens, tokens + *record);
  candidates_.clear();
  const std::vector<TokenId>& noted = noted_of_[asked];
  for (std::size_t i = 0; i < noted.size(); i += static_cast<std::size_t>(noted_)) add_candidates(&noted[i]);
  return verdict_;
}

// The states of the trees' nodes, one tree behind the other.
Tensor Verifier::states_of(std::span<const Asked> asked, std::span<const std::size_t> which) {
  host_rows_.clear();
  int end = 0;
  for (const std::size_t i : which) {
    const std::size_t before = host_rows_.size();
    host_rows_.resize(before + static_cast<std::size_t>(asked[i].tree->size()));
    std::iota(host_rows_.begin() + static_cast<std::ptrdiff_t>(before), host_rows_.end(), asked[i].first);
    end = std::max(end, asked[i].first + asked[i].tree->size());
  }
  const Tensor states = states_.matrix(static_cast<std::int64_t>(host_rows_.size()), target_.config().dim);
  backend_.upload(state_rows_.as<void>(), host_rows_.data(), words(host_rows_.size()));
  backend_.gather_rows(states, target_.hidden(end), state_rows_.as<std::int32_t>());
  return states;
}

Tensor Verifier::states_of(const Asked& asked) const {
  return target_.hidden(asked.first + asked.tree->size()).row_range(asked.first, asked.tree->size());
}

void Verifier::choose_best(std::span<const Asked> asked, std::span<const std::size_t> which) {
  const Tensor states = states_of(asked, which);
  auto* sampled = sampled_.as<std::int32_t>();
  const BestTokens noted{.ids = noted_ids_, .scores = noted_scores_.as<float>(), .k = noted_};
  const Rows rows{.count = static_cast<int>(states.rows), .sequence = asked[which[0]].sequence};
  backend_.head_sample(sampled, states, target_.head(), rows, Sampling{}, noted_ > 0 ? &noted : nullptr);
  const std::int32_t* ids = noted_ids_;
  for (const std::size_t i : which) {
    const DraftTree& tree = *asked[i].tree;
    backend_.verify(views_[i], tree.view(), sampled);
    if (noted_ > 0) take_noted(i, ids);
    sampled += tree.size();
    ids += std::ptrdiff_t{tree.size()} * noted_;
  }
}

void Verifier::draw(std::span<const Asked> asked, std::span<const std::size_t> which) {
  const int most = target_.limits().logit_rows;
  for (std::size_t first = 0; first < which.size();) {
    // As many trees as there is room for logits.
    std::size_t end = first;
    int rows = 0;
    while (end < which.size() && rows + asked[which[end]].tree->size() <= most) {
      rows += asked[which[end++]].tree->size();
    }
    if (end == first) {  // a tree larger than that, for itself
      const Asked& one = asked[which[first]];
      const std::int32_t* sampled =
          sample(one.tree->rows(one.sequence), states_of(one), one.tree->view().tokens, *one.sampler);
      backend_.verify(views_[which[first]], one.tree->view(), sampled);
      if (noted_ > 0) take_noted(which[first], noted_ids_);
      ++first;
      continue;
    }
    const auto some = which.subspan(first, end - first);
    const Tensor logits = target_.logits(states_of(asked, some));
    int at = 0;
    for (const std::size_t i : some) {
      const Asked& one = asked[i];
      const Tensor own = logits.row_range(at, one.tree->size());
      backend_.verify_logits(views_[i], one.tree->view(), own, one.tree->rows(one.sequence), one.sampler->chain(),
                             one.sampler->draw_after_chain());
      if (noted_ > 0) note(i, own);
      at += one.tree->size();
    }
    first = end;
  }
}

void Verifier::ask(const Asked& asked, std::size_t which) {
  walk(*asked.tree, asked.tree->rows(asked.sequence), states_of(asked), *asked.sampler, *asked.processor, asked.text);
  backend_.verify(views_[which], asked.tree->view(), sampled_.as<std::int32_t>());
  if (noted_ > 0) take_noted(which, noted_ids_);
}

// The nodes that a verdict on the device has accepted.
std::vector<std::int32_t> Verifier::accepted(std::size_t which) {
  std::vector<std::int32_t> record(1 + static_cast<std::size_t>(max_path_));
  backend_.download(record.data(), views_[which].count, words(record.size()));
  return {record.begin() + 1, record.begin() + 1 + record[0]};
}

// Candidates after the accepted nodes, from those that were noted after all nodes of the tree.
void Verifier::take_noted(std::size_t which, const std::int32_t* ids) {
  std::vector<TokenId> best(static_cast<std::size_t>(noted_));
  for (const std::int32_t node : accepted(which)) {
    backend_.download(best.data(), ids + std::ptrdiff_t{node} * noted_, words(best.size()));
    noted_of_[which].insert(noted_of_[which].end(), best.begin(), best.end());
  }
}

// The same from the tree's logits, of which only those of the accepted nodes went through the chain.
void Verifier::note(std::size_t which, Tensor logits) {
  std::vector<TokenId> best(static_cast<std::size_t>(noted_));
  for (const std::int32_t node : accepted(which)) {
    backend_.top_k(noted_ids_, noted_scores_.as<float>(), noted_, logits.row_range(node, 1), nullptr);
    backend_.download(best.data(), noted_ids_, words(best.size()));
    noted_of_[which].insert(noted_of_[which].end(), best.begin(), best.end());
  }
}

}  // namespace frspec
