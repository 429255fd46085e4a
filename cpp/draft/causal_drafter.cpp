// A whole language model as drafter.
#include "draft/causal_drafter.h"

#include <algorithm>

namespace frspec {

ModelLimits TreeModel::limits(const TreeShape& shape, int context, int batch, KvType kv) {
  return {.context = context,
          .rows = std::max(batch, shape.branch),
          .logit_rows = 1,
          .tree = shape.levels() * shape.branch,
          .depth = shape.levels() + 1,
          .kv = kv};
}

TreeModel::TreeModel(Backend& backend, std::unique_ptr<CausalModel> model, std::unique_ptr<DraftHead> head,
                     const TreeShape& shape)
    : backend_(backend),
      model_(std::move(model)),
      head_(std::move(head)),
      grower_(backend, shape, *head_),
      ids_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(model_->limits().rows))),
      count_(backend.allocate(sizeof(std::int32_t))),
      last_(backend.allocate(sizeof(float) * static_cast<std::size_t>(model_->config().dim))) {
  read_.reserve(static_cast<std::size_t>(model_->limits().context));
}

std::vector<const Weight*> TreeModel::matrices() const {
  std::vector<const Weight*> result = model_->matrices();
  result.pop_back();
  for (const Weight* weight : head_->matrices()) result.push_back(weight);
  return result;
}

void TreeModel::begin(const Reuse& reuse) {
  leave();
  begin_ = 0;
  reuse_ = reuse;
}

void TreeModel::leave() {
  const auto length = static_cast<std::int32_t>(length_);
  model_->pages()->end(read_, length, length, reuse_);
  read_.clear();
  length_ = 0;
  is_new_ = true;
}

void TreeModel::keep(std::size_t length) {
  length_ = std::min(length, length_);
  read_.resize(length_);
  model_->pages()->truncate(static_cast<std::int32_t>(length_));
  model_->cache().set_length(static_cast<std::int32_t>(length_));
}

void TreeModel::follow(std::span<const TokenId> text, std::size_t kept) {
  const auto context = static_cast<std::size_t>(model_->limits().context);
  if (text.size() - begin_ > context || kept < begin_) {
    begin_ = text.size() > context ? text.size() - (context + 1) / 2 : 0;
    leave();
  }
  const std::span<const TokenId> here = text.subspan(begin_);
  // The last token is read in any case: its state is what a tree grows from.
  if (is_new_) {
    const std::int32_t found = model_->pages()->begin(here, static_cast<std::int32_t>(here.size()) - 1, reuse_);
    model_->cache().set_length(found);
    length_ = static_cast<std::size_t>(found);
    read_.assign(here.begin(), here.begin() + found);
    is_new_ = false;
  } else {
    keep(std::min(std::max(kept, begin_), text.size() - 1) - begin_);
  }
  model_->pages()->reserve(static_cast<std::int64_t>(here.size()) + model_->limits().tree);
  read(text.subspan(length()));
}

void TreeModel::read(std::span<const TokenId> tokens) {
  const auto most = static_cast<std::size_t>(model_->limits().rows);
  for (std::size_t first = 0; first < tokens.size(); first += most) {
    const auto some = tokens.subspan(first, std::min(most, tokens.size() - first));
    const auto rows = static_cast<std::int32_t>(some.size());
    backend_.upload(ids_.as<void>(), some.data(), some.size_bytes());
    model_->forward(ids_.as<std::int32_t>(), model_->cache().chain(rows));
    backend_.upload(count_.as<void>(), &rows, sizeof rows);
    model_->cache().advance(count_.as<std::int32_t>());
    last_rows_ = rows;
    length_ += some.size();
    read_.insert(read_.end(), some.begin(), some.end());
  }
  if (tokens.empty()) return;
  const int dim = model_->config().dim;
  backend_.copy(last_.matrix(1, dim), model_->hidden(last_rows_).row_range(last_rows_ - 1, 1));
}

Tensor TreeModel::extend(const std::int32_t* tokens, int rows, int first_slot, const std::int32_t* depth,
                         const std::int32_t* path, int path_stride) {
  model_->forward(tokens, Rows{rows, model_->cache().sequence(), first_slot, depth, path, path_stride});
  return model_->hidden(rows);
}

TreeGrower& TreeModel::grow(DraftHead& head, const TextRules& rules, Growth* growth, const std::int32_t* token_of_id) {
  const CandidatePool& pool = grower_.pool();
  const auto states = [&](int level, int rows) {
    if (level == 0) return last_state();
    model_->forward(pool.frontier_tokens, grower_.frontier_rows(model_->cache().sequence(), level, rows));
    return model_->hidden(rows);
  };
  if (growth != nullptr) {
    grower_.grow(*growth, head, rules, states, token_of_id);
  } else {
    grower_.grow(head, rules, states, token_of_id);
  }
  return grower_;
}

void CausalDrafter::begin(const TextRules& rules) {
  rules_ = rules;
  text_.clear();
  text_.reserve(static_cast<std::size_t>(rules.sequence.page_count) * kPageSlots);
  model_->begin(rules.reuse);
  model_->head().begin();
}

void CausalDrafter::extend(const Extension& extension) {
  for (const TokenId token : extension.tokens) text_.push_back(known(token));
  root_ = extension.tokens.back();
  model_->head().observe(extension.news());
  // A long prompt is read at once; what a step adds is read with the next root.
  const auto committed = std::span<const TokenId>(text_).first(text_.size() - 1);
  if (committed.size() - model_->length() < static_cast<std::size_t>(model_->model().limits().rows)) return;
  model_->follow(committed, model_->length());
}

// The target may have ids that the drafter has no row for: padding, which no text of sense holds.
TokenId CausalDrafter::known(TokenId token) const { return token < model_->model().config().vocab ? token : 0; }

const DraftTree& CausalDrafter::propose(Growth* growth) {
  model_->follow(text_, model_->length());
  TreeGrower& grower = model_->grow(rules_, growth);
  return growth != nullptr ? grower.select(*growth, root_) : grower.select(rules_.sequence);
}

}  // namespace frspec
