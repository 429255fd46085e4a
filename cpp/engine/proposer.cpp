#include "engine/proposer.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "engine/step_times.h"

namespace frspec {
namespace {

// A forced run of so many tokens is worth more than what a drafter may say; it costs nothing, and is always accepted.
constexpr std::size_t kWorthAStep = 3;

}  // namespace

Proposer::Proposer(EngineParts& parts, Places& places) : parts_(parts), places_(places) {
  for (auto* scratch : {&cut_tokens_, &cut_parents_}) scratch->reserve(static_cast<std::size_t>(parts.max_size));
}

void Proposer::propose(const Sequence& sequence, Step& step, const Step* unseen) {
  const bool is_guided = sequence.options().grammar != nullptr;
  if (is_guided && propose_forced(sequence, step)) return;
  // Where there is no room for drafts none are made, unless they are a part of what a seed gives.
  const bool has_room = step.limits.most != 0 || sequence.options().verify != VerifyMode::Keyed;
  if (places_.current().draft.works()) {
    parts_.planner->write_among(step.pass, sequence.options().sampling.temperature > 0.0f);
    if (has_room) ask_drafter(sequence, step, unseen);
  }
  step.drafted = step.tree != nullptr;
  if (!step.drafted) step.tree = &parts_.runner->root_alone();
  if (is_guided) guide(sequence, step);
}

void Proposer::ask_drafter(const Sequence& sequence, Step& step, const Step* unseen) {
  const GenerateOptions& options = sequence.options();
  Place& place = places_.current();
  Drafting& drafting = *parts_.drafting;
  Planner& planner = *parts_.planner;
  const bool watches = options.draft == DraftMode::Watch;
  const bool again = unseen != nullptr && unseen->plan.planned && unseen->drafted;
  const std::int32_t* end = parts_.runner->token(place.tokens().size());
  step.plan = again ? planner.tuner().again() : planner.next(options, sequence.stats().steps, outlook(sequence, step));
  drafting.time_head(options.trace);
  WideGrowth wide;
  Growth* growth = watches ? &wide : planner.growth(options);
  // What the text repeats costs nothing to look up.
  const bool repeats = growth != nullptr && step.plan.planned && drafting.drafter().repeats();
  if (step.plan.drafts && unseen != nullptr) {
    drafting.follow(place.draft, unseen->tree->view(), parts_.runner->path(), unseen->verdict->count);
  } else if (step.plan.drafts) {
    step.read_rows = drafting.unread(place.draft);
    drafting.catch_up(place.draft, end);
  } else if (step.plan.reads > 0) {
    step.read_rows = drafting.read_ahead(place.draft, step.plan.reads, end);
  }
  parts_.backend->instruments().note_time(time_point(step.slot, kRead));
  if (step.plan.drafts || repeats) step.tree = grow(step, growth);
  if (watches && step.tree != nullptr) {
    place.watched = watched_nodes(*parts_.backend, *std::exchange(step.tree, nullptr));
  }
}

// What decides whether it is worth a draft.
Tuner::Outlook Proposer::outlook(const Sequence& sequence, const Step& step) {
  return {.id = sequence.id(),
          .written = sequence.stats().generated_tokens,
          .left = std::min(sequence.tokens_left(), sequence.room_left()),
          .piece = step.piece,
          .unread = [this] { return parts_.drafting->unread(places_.current().draft); }};
}

const DraftTree* Proposer::grow(Step& step, Growth* growth) {
  Place& place = places_.current();
  Tuner& tuner = parts_.planner->tuner();
  if (tuner.grows()) tuner.begin_growth(step.plan);
  std::optional<LimitedGrowth> limited;
  if (growth != nullptr && step.limits.any()) growth = &limited.emplace(*growth, step.limits);
  const DraftTree* tree = parts_.drafting->propose(place.draft, step.plan.arm, growth);
  if (tree != nullptr) tree = cut(*tree, step.limits);
  if (tuner.grows()) {
    Tuner::Growing& growing = place.growing[static_cast<std::size_t>(step.slot)];
    growing = tuner.end_growth();
    step.growing = &growing;
  }
  return tree;
}

// The first nodes of a tree, as many as the limits leave.
const DraftTree* Proposer::cut(const DraftTree& tree, const DraftLimits& limits) {
  const auto size = static_cast<std::size_t>(1 + limits.of(tree.size() - 1));
  if (std::cmp_equal(size, tree.size())) return &tree;
  read_nodes(*parts_.backend, tree.view(), cut_tokens_, cut_parents_);
  const std::span<const NodeNote> notes = tree.notes();
  DraftTree& own = places_.current().tree;
  own.assign(*parts_.backend, std::span(cut_tokens_).first(size), std::span(cut_parents_).first(size),
             notes.first(std::min(size, notes.size())));
  own.set_allowed({});
  own.set_proposals(tree.proposals());
  return &own;
}

// A chain of the tokens that the grammar forces, where it is worth a step, or nobody else drafts.
bool Proposer::propose_forced(const Sequence& sequence, Step& step) {
  const GenerateOptions& options = sequence.options();
  const Place& place = places_.current();
  step.run.clear();
  if (options.draft == DraftMode::Never) return false;
  GuidedTrees& guided = *place.guided;
  const int most = step.limits.most;
  step.run = options.grammar->forced(most < 0 ? guided.most_forced() : std::min(guided.most_forced(), most));
  if (step.run.empty() || (place.draft.works() && step.run.size() < kWorthAStep)) return false;
  step.tree = &guided.chain(sequence.tokens().back(), step.run, *options.grammar);
  step.forced = true;
  return true;
}

// What the grammar leaves of a tree; where that is nothing, the forced run after all, however short.
void Proposer::guide(const Sequence& sequence, Step& step) {
  Grammar& grammar = *sequence.options().grammar;
  GuidedTrees& guided = *places_.current().guided;
  step.tree = &guided.cut(*step.tree, grammar);
  if (step.tree->size() > 1 || step.run.empty()) return;
  step.tree = &guided.chain(sequence.tokens().back(), step.run, grammar);
  step.forced = true;
}

}  // namespace frspec
