#include "engine/target_runner.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {

std::vector<TokenId> some_tokens(int count, int vocab) {
  std::vector<TokenId> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<TokenId>((i * 7919 + 104729) % static_cast<std::size_t>(vocab));
  }
  return tokens;
}

TargetRunner::TargetRunner(Backend& backend, CausalModel& target, int batch, int max_depth)
    : backend_(backend),
      target_(target),
      // Room, too, for trees that are only timed: any that fits a pass, as deep as a binary tree of that many nodes.
      verifier_(backend, target, target.limits().rows, std::max(max_depth, 32), target.limits().places),
      batch_(batch),
      root_alone_(backend, TreeShape{.depth = 0, .branch = 1, .size = 1}),
      shared_(static_cast<std::size_t>(target.limits().places)),
      history_stride_(target.limits().context + max_depth + 1) {
  const auto words = [&](std::int64_t count) {
    return backend_.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(count));
  };
  constexpr std::int32_t kLastOfPrefix = -1;
  count_ = words(1);
  last_depth_ = words(1);
  history_ = words(places() * std::int64_t{history_stride_});
  path_memory_ = words(2 * (max_depth + 1) + 1);
  auto* path = path_memory_.as<std::int32_t>();
  path_ = {max_depth + 1, path, path + max_depth + 1, path + 2 * (max_depth + 1)};
  committed_ = words((max_depth + 1) * std::int64_t{target_.config().dim});
  backend_.upload(last_depth_.as<void>(), &kLastOfPrefix, sizeof kLastOfPrefix);
}

void TargetRunner::reset(std::int32_t length) {
  target_.cache().set_length(length);
  if (length == 0 && keeps_states()) target_.states()->clear(sequence().state);
}

std::int32_t TargetRunner::begin(std::span<const TokenId> tokens, const Reuse& reuse) {
  SequencePages& pages = *target_.pages();
  RecurrentStates* states = target_.states();
  // The last token is read in any case: its state gives the next one.
  std::int32_t cached = pages.begin(tokens, static_cast<std::int32_t>(tokens.size()) - 1, reuse);
  shared_[pages.place()] = static_cast<std::size_t>(cached);
  while (states != nullptr && cached > 0) {
    const std::int32_t found = states->find(reuse.salt, tokens, cached);
    if (found == cached) break;
    cached = pages.begin(tokens, found, reuse);
  }
  set_tokens(tokens, 0);
  reset(cached);
  if (states != nullptr && cached > 0) {
    states->resume(sequence().state, reuse.salt, tokens.first(static_cast<std::size_t>(cached)));
  }
  return cached;
}

// At the last border of a page, for the same prompt with another end; where it parts from what others have left, since
// that seems to be a beginning of many; and now and then.
std::size_t TargetRunner::next_state(std::size_t first, std::size_t prompt) const {
  constexpr std::size_t kParts = 4, kLeast = 512;
  if (!keeps_states()) return 0;
  const std::size_t last = (prompt - 1) / kPageSlots * kPageSlots;
  const std::size_t apart = std::max(kLeast, prompt / kParts / kPageSlots * kPageSlots);
  const std::size_t parting = std::min(last, shared_[target_.pages()->place()] / kPageSlots * kPageSlots);
  std::size_t next = std::min(last, (first / apart + 1) * apart);
  if (parting > first) next = std::min(next, parting);
  return next > first ? next : 0;
}

void TargetRunner::settle_state(std::int32_t unwanted) {
  if (keeps_states()) target_.states()->settle(sequence().state, unwanted);
}

void TargetRunner::keep_state(std::span<const TokenId> tokens, const Reuse& reuse, std::int32_t unwanted) {
  if (!keeps_states() || !reuse.on) return;
  const int place = sequence().state;
  const auto without = static_cast<std::size_t>(target_.states()->settle(place, unwanted));
  target_.states()->keep(place, reuse.salt, tokens.first(tokens.size() - without));
}

void TargetRunner::set_tokens(std::span<const TokenId> tokens, std::int32_t length) {
  reset(length);
  backend_.upload(history() + length, tokens.data(), tokens.size_bytes());
}

void TargetRunner::leave(std::span<const TokenId> text, std::int32_t committed, std::int32_t drafted,
                         const Reuse& reuse) {
  target_.pages()->end(text, committed, drafted, reuse);
}

void TargetRunner::take_over() {
  if (!reserve(target_.limits().context)) throw Error("cache: found pages that sequences hold, expected none");
}

bool TargetRunner::read(std::size_t first, int count, const std::function<bool()>& keep_going) {
  return target_.forward(token(first), target_.cache().chain(count), keep_going);
}

void TargetRunner::commit_rows(std::int32_t rows) {
  backend_.upload(count_.as<void>(), &rows, sizeof rows);
  target_.cache().advance(count_.as<std::int32_t>());
}

TokenId TargetRunner::sample_first(int rows, std::size_t length, const Sampler& sampler,
                                   const LogitsProcessor& processor, std::span<const TokenId> text,
                                   const TokenBits& allowed) {
  const Rows last{
      .count = 1, .sequence = target_.cache().sequence(), .depth = last_depth_.as<std::int32_t>(), .allowed = allowed};
  const Tensor hidden = target_.hidden(rows).row_range(rows - 1, 1);
  TokenId found = -1;
  if (processor) {
    found =
        verifier_.sample_one(last, hidden, token(length - static_cast<std::size_t>(rows)), sampler, processor, text);
  } else {
    const std::int32_t* sampled =
        verifier_.sample(last, hidden, token(length - static_cast<std::size_t>(rows)), sampler);
    backend_.download(&found, sampled, sizeof found);
  }
  backend_.upload(history() + length, &found, sizeof found);
  return found;
}

const DraftTree& TargetRunner::root_alone() {
  backend_.tree_select(root_alone_.view(), root_alone_.pool(), sequence());
  return root_alone_;
}

void TargetRunner::try_tree(std::int32_t prefix, std::span<const TokenId> tokens,
                            std::span<const std::int32_t> parents) {
  reset(prefix);
  const DraftTree tree(backend_, tokens, parents);
  forward(tree);
  verifier_.verify(tree, target_.hidden(tree.size()), Sampler{});
  verifier_.post(0);
  (void)verifier_.read(0);
}

void TargetRunner::try_states(std::int32_t prefix, int tokens) {
  reset(prefix);
  for (int left = tokens; left > 0; left -= batch_) target_.run_states(target_.cache().chain(std::min(left, batch_)));
  backend_.wait();
}

void TargetRunner::try_states(std::int32_t prefix, std::span<const TokenId> tokens,
                              std::span<const std::int32_t> parents) {
  reset(prefix);
  const DraftTree tree(backend_, tokens, parents);
  target_.run_states(tree.rows(target_.cache().sequence()));
  backend_.wait();
}

void TargetRunner::commit(const DraftTree& tree, const VerdictView& verdict) {
  path_.rows = tree.view().max_depth + 1;
  target_.commit(history(), verdict, path_);
}

std::vector<TokenLogprobs> TargetRunner::logprobs(Tensor hidden, const std::int32_t* tokens, std::size_t count,
                                                  int best) {
  const auto k = static_cast<std::size_t>(std::min(best, target_.config().vocab));
  const std::size_t bytes = sizeof(std::int32_t) * (2 * k + 1);
  if (best_.bytes() < bytes) best_ = backend_.allocate(bytes);
  auto* device_ids = best_.as<std::int32_t>();
  auto* device_values = best_.as<float>() + k;
  auto* device_chosen = device_values + k;
  std::vector<std::int32_t> ids(k);
  std::vector<float> values(k);
  std::vector<TokenLogprobs> all(count);
  for (std::size_t row = 0; row < count; ++row) {
    const Tensor logits = target_.logits(hidden.row_range(static_cast<std::int64_t>(row), 1));
    backend_.log_probs(device_chosen, logits, tokens + row);
    backend_.download(&all[row].chosen, device_chosen, sizeof all[row].chosen);
    if (k == 0) continue;
    backend_.top_k(device_ids, device_values, static_cast<int>(k), logits, nullptr);
    backend_.download(ids.data(), device_ids, k * sizeof ids[0]);
    backend_.download(values.data(), device_values, k * sizeof values[0]);
    for (std::size_t i = 0; i < k; ++i) all[row].best.emplace_back(ids[i], values[i]);
  }
  return all;
}

void TargetRunner::forward(std::span<Part> parts) {
  int count = 0, stride = 1;
  for (Part& part : parts) {
    part.first = count;
    count += static_cast<int>(part.tokens.size());
  }
  std::vector<TreeLayout> layouts;
  for (const Part& part : parts) {
    layouts.push_back(part.parents.empty() ? TreeLayout{} : derive_layout(part.parents));
    stride = std::max(stride, layouts.back().max_depth + 1);
  }
  const auto rows = static_cast<std::size_t>(count), width = static_cast<std::size_t>(stride);
  host_pass_.assign(rows * (2 + width), 0);
  groups_.clear();
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const Part& part = parts[p];
    const TreeLayout& layout = layouts[p];
    const auto first = static_cast<std::size_t>(part.first);
    std::copy(part.tokens.begin(), part.tokens.end(), host_pass_.begin() + part.first);
    const std::size_t own = static_cast<std::size_t>(layout.max_depth) + 1;
    for (std::size_t r = 0; r < layout.depth.size(); ++r) {
      host_pass_[rows + first + r] = layout.depth[r];
      std::copy_n(layout.path.begin() + static_cast<std::ptrdiff_t>(r * own), own,
                  host_pass_.begin() + static_cast<std::ptrdiff_t>(2 * rows + (first + r) * width));
    }
    use(part.place);
    groups_.push_back({target_.cache().sequence(), part.first, static_cast<int>(part.tokens.size()), own == 1});
  }
  const std::size_t bytes = host_pass_.size() * sizeof(std::int32_t);
  if (pass_.bytes() < bytes) pass_ = backend_.allocate(bytes);
  auto* pass = pass_.as<std::int32_t>();
  backend_.upload(pass, host_pass_.data(), bytes);
  target_.forward(pass, {.count = count,
                         .sequence = groups_[0].sequence,
                         .depth = pass + rows,
                         .path = pass + 2 * rows,
                         .path_stride = stride,
                         .groups = groups_});
}

std::vector<TokenLogprobs> TargetRunner::logprobs(Tensor nodes, const VerdictView& verdict, int rows, std::size_t count,
                                                  int best) {
  const Tensor hidden = committed_.matrix(rows, target_.config().dim);
  backend_.gather_rows(hidden, nodes, verdict.nodes);
  return logprobs(hidden, verdict.tokens, count, best);
}

}  // namespace frspec
