// A whole language model as drafter.
#include "draft/causal_drafter.h"

#include <algorithm>

#include "base/error.h"

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
      readings_(static_cast<std::size_t>(model_->limits().places)),
      ids_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(model_->limits().rows))),
      count_(backend.allocate(sizeof(std::int32_t))),
      last_(backend.allocate(sizeof(float) * readings_.size() * static_cast<std::size_t>(model_->config().dim))) {
  for (Reading& reading : readings_) reading.read.reserve(static_cast<std::size_t>(model_->limits().context));
}

std::vector<const Weight*> TreeModel::matrices() const {
  std::vector<const Weight*> result = model_->matrices();
  result.pop_back();
  for (const Weight* weight : head_->matrices()) result.push_back(weight);
  return result;
}

void TreeModel::use_place(int place) {
  place_ = static_cast<std::size_t>(place);
  model_->pages()->use(place);
}

void TreeModel::begin(const Reuse& reuse) {
  leave();
  at().begin = 0;
  at().reuse = reuse;
}

void TreeModel::leave() {
  Reading& own = at();
  const auto length = static_cast<std::int32_t>(own.length);
  model_->pages()->end(own.read, length, length, own.reuse);
  own.read.clear();
  own.length = 0;
  own.is_new = true;
}

void TreeModel::keep(std::size_t length) {
  Reading& own = at();
  const auto wanted = static_cast<std::int32_t>(std::min(length, own.length));
  own.length = static_cast<std::size_t>(model_->pages()->truncate(wanted));
  own.read.resize(own.length);
  model_->cache().set_length(static_cast<std::int32_t>(own.length));
}

// Room for so many slots of the text. Where other texts hold the pages, the one that was read least lately gives its
// own, and is read again when it is drafted next.
void TreeModel::reserve(std::int64_t slots) {
  const auto here = static_cast<int>(place_);
  while (!model_->pages()->reserve(slots)) {
    int least = -1;
    for (int place = 0; place < static_cast<int>(readings_.size()); ++place) {
      const Reading& other = readings_[static_cast<std::size_t>(place)];
      if (place == here || other.is_new) continue;
      if (least < 0 || other.used < readings_[static_cast<std::size_t>(least)].used) least = place;
    }
    if (least < 0) throw Error("the drafter's cache: found all pages taken, expected room for one text");
    use_place(least);
    leave();
    use_place(here);
  }
}

std::size_t TreeModel::unread(std::span<const TokenId> text, std::size_t kept) {
  Reading& own = at();
  const auto context = static_cast<std::size_t>(model_->limits().context);
  if (text.size() - own.begin > context || kept < own.begin) {
    own.begin = text.size() > context ? text.size() - (context + 1) / 2 : 0;
    leave();
  }
  const std::span<const TokenId> here = text.subspan(own.begin);
  // The last token is read in any case: its state is what a tree grows from.
  if (own.is_new) {
    const std::int32_t found = model_->pages()->begin(here, static_cast<std::int32_t>(here.size()) - 1, own.reuse);
    model_->cache().set_length(found);
    own.length = static_cast<std::size_t>(found);
    own.read.assign(here.begin(), here.begin() + found);
    own.is_new = false;
  } else {
    keep(std::min(std::max(kept, own.begin), text.size() - 1) - own.begin);
  }
  return text.size() - length();
}

void TreeModel::follow(std::span<const TokenId> text, std::size_t kept, std::size_t most) {
  const std::size_t count = std::min(most, unread(text, kept));
  at().used = ++clock_;
  reserve(static_cast<std::int64_t>(at().length + count) + model_->limits().tree);
  read(text.subspan(length(), count));
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
    at().length += some.size();
    at().read.insert(at().read.end(), some.begin(), some.end());
  }
  if (tokens.empty()) return;
  backend_.copy(last_state(), model_->hidden(last_rows_).row_range(last_rows_ - 1, 1));
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

void CausalDrafter::use_place(int place) {
  place_ = static_cast<std::size_t>(place);
  model_->use_place(place);
}

void CausalDrafter::begin(const TextRules& rules) {
  text().rules = rules;
  text().tokens.clear();
  text().tokens.reserve(static_cast<std::size_t>(rules.sequence.page_count) * kPageSlots);
  model_->begin(rules.reuse);
  if (rules.alone) model_->head().begin();
}

void CausalDrafter::extend(const Extension& extension) {
  std::vector<TokenId>& tokens = text().tokens;
  for (const TokenId token : extension.tokens) tokens.push_back(known(token));
  text().root = extension.tokens.back();
  model_->head().observe(extension.news());
}

// The target may have ids that the drafter has no row for: padding, which no text of sense holds.
TokenId CausalDrafter::known(TokenId token) const { return token < model_->model().config().vocab ? token : 0; }

const DraftTree& CausalDrafter::propose(Growth* growth) {
  model_->follow(text().tokens, model_->length());
  TreeGrower& grower = model_->grow(text().rules, growth);
  return growth != nullptr ? grower.select(*growth, text().root) : grower.select(text().rules.sequence);
}

}  // namespace frspec
