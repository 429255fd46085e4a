// Telling a drafter, and asking it.
#include "draft/drafting.h"

#include <algorithm>
#include <exception>

#include "vocab/adaptive_ranks.h"
#include "vocab/head_spec.h"
#include "vocab/recording_head.h"
#include "vocab/timed_head.h"

namespace frspec {
namespace {

constexpr int kUnread = 128;  // rows

}  // namespace

Drafting::Drafting(const DraftOptions& options, const std::string& head, const DraftingParts& parts)
    : backend_(parts.drafter.backend),
      target_(parts.drafter.target),
      clock_(std::make_unique<HeadClock>(backend_, parts.first_time_point, kTimePoints)),
      places_(parts.drafter.places) {
  check_adapt(options, parse_head_spec(head));
  if (options.states > 0) states_ = std::make_shared<StateRecord>(StateRecord{options.states, 0, {}});
  DrafterParts whole = parts.drafter;
  if (parts.ranks) whole.adaptive = parts.ranks->ranks();
  whole.states = states_;
  whole.clock = clock_.get();
  whole.ranks_source = &ranks_source_;
  drafter_ = make_drafter(options, head, whole);
  arms_ = time_arms(backend_, *drafter_, head, largest_tree(options));
  // Of one of several, so many that a pass over them costs hardly more per row than one over more.
  room_ = std::max(places_ == 1 ? whole.batch : std::min(whole.batch, kUnread), tree_bounds(options).depth + 1);
  if (!drafter_->reads_states()) return;
  count_ = backend_.allocate(sizeof(std::int32_t));
  features_ = backend_.allocate(sizeof(float) * static_cast<std::size_t>(places_) * static_cast<std::size_t>(room_) *
                                static_cast<std::size_t>(target_.feature_dim()));
}

Drafting::~Drafting() = default;

void Drafting::use_place(int place) {
  place_ = place;
  drafter_->use_place(place);
}

Tensor Drafting::kept_states(int first, int rows) const {
  const std::int64_t room = room_;
  return features_.matrix(places_ * room, target_.feature_dim()).row_range(place_ * room + first, rows);
}

template <class Use>
void Drafting::guard(DraftState& state, Use&& use) {
  if (!state.works()) return;
  try {
    use();
  } catch (const std::exception& error) {
    state.error = error.what();
  }
}

void Drafting::begin(DraftState& state, const TextRules& rules) {
  guard(state, [&] { drafter_->begin(rules); });
}

void Drafting::extend(DraftState& state, const Extension& extension) {
  guard(state, [&] { drafter_->extend(extension); });
}

void Drafting::accept(DraftState& state, Tensor features, const std::int32_t* next) {
  if (!drafter_->reads_states()) return;
  guard(state, [&] {
    const auto rows = static_cast<std::int32_t>(features.rows);
    backend_.upload(count_.as<void>(), &rows, sizeof rows);
    drafter_->accept({.rows = rows, .count = count_.as<std::int32_t>(), .features = features, .next = next});
  });
}

void Drafting::resume(DraftState& state, std::int32_t count) {
  if (drafter_->reads_states()) guard(state, [&] { drafter_->resume(count); });
}

void Drafting::read(DraftState& state, Tensor features, const std::int32_t* next) { accept(state, features, next); }

void Drafting::remember(DraftState& state, Tensor features, const VerdictView& verdict, int rows,
                        const std::int32_t* end) {
  if (!state.works() || !drafter_->reads_states()) return;
  if (state.rows + rows > room_) catch_up(state, end - rows);
  backend_.gather_rows(kept_states(state.rows, rows), features, verdict.nodes);
  state.rows += rows;
}

void Drafting::catch_up(DraftState& state, const std::int32_t* end) {
  if (state.rows == 0) return;
  accept(state, kept_states(0, state.rows), end - state.rows);
  state.rows = 0;
}

int Drafting::unread(DraftState& state) {
  std::size_t rows = static_cast<std::size_t>(state.rows);
  if (!drafter_->reads_states()) guard(state, [&] { rows = drafter_->unread(); });
  return static_cast<int>(rows);
}

int Drafting::read_ahead(DraftState& state, int most, const std::int32_t* end) {
  const int rows = unread(state);
  if (drafter_->reads_states()) {
    catch_up(state, end);
    return rows;
  }
  guard(state, [&] { drafter_->read(static_cast<std::size_t>(most)); });
  return std::min(most, rows);
}

void Drafting::follow(DraftState& state, const TreeView& tree, const PathView& path, std::int32_t* count) {
  if (!drafter_->reads_states()) return;
  guard(state, [&] {
    const int rows = tree.max_depth + 1;
    const Tensor features = kept_states(0, rows);
    backend_.gather_rows(features, target_.features(tree.size), path.nodes);
    drafter_->accept({.rows = rows, .count = count, .features = features, .next = path.tokens, .last = path.last});
  });
}

const DraftTree* Drafting::propose(DraftState& state, int arm, Growth* growth) {
  const DraftTree* tree = nullptr;
  guard(state, [&] {
    drafter_->use_arm(arm);
    tree = &drafter_->propose(growth);
  });
  return tree;
}

void Drafting::time_head(bool timed) { clock_->run(timed); }
double Drafting::head_seconds() { return clock_->seconds(); }

std::pair<std::vector<float>, std::size_t> Drafting::take_states() {
  if (!states_) return {};
  std::pair<std::vector<float>, std::size_t> taken{states_->states, states_->dim};
  states_->states.clear();
  return taken;
}

void Drafting::forget_states() {
  if (states_) states_->states.clear();
}

}  // namespace frspec
