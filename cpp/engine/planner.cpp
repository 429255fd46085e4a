#include "engine/planner.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "base/error.h"

namespace frspec {
namespace {

// Trees of a fixed shape that only repeat the text are drafts like any other.
std::vector<TimedArm> arms_for(std::vector<TimedArm> arms, const DraftOptions& options) {
  if (arms.empty() && options.tree) arms.emplace_back();
  return arms;
}

}  // namespace

Planner::Planner(std::vector<TimedArm> arms, const DraftOptions& options, const std::string& about)
    : tuner_(arms_for(std::move(arms), options), !options.tree, largest_tree(options).levels()) {
  parents_.reserve(static_cast<std::size_t>(tree_bounds(options).size));
  if (options.tree) return;
  std::string all = about;
  for (const TimedArm& arm : tuner_.arms()) all += concat("; ", arm.translation, " ", arm.head);
  file_.emplace(std::move(all));
  if (const auto numbers = file_->read()) tuner_.restore(*numbers);
}

Planner::~Planner() {
  if (file_ && tuner_.knows_costs()) (void)file_->write(tuner_.numbers());
}

void Planner::write_among(const Tuner::Pass& pass, bool noisy) {
  among_others_ = pass.texts > 1;
  if (among_others_ && !among_) {
    among_ = tuner_;
    among_->join(pass);
  }
  tuner().set_pass(pass);
  if (among_others_) among_->set_noisy(noisy);
}

void Planner::begin_text(bool noisy) {
  tuner_.begin_text(noisy);
  if (among_) among_->begin_text(noisy);
}

Tuner::Plan Planner::next(const GenerateOptions& options, std::int64_t steps, const Tuner::Outlook& text) {
  // Rejection sampling draws other numbers with drafts than without, and with others: what a seed gives may not depend
  // on the clock.
  if (options.verify != VerifyMode::Keyed) return {.drafts = true, .forced = true};
  if (options.draft == DraftMode::Watch) return {.drafts = true};
  if (options.draft == DraftMode::Sparse && (steps & (steps + 1)) != 0) return {};
  return tuner().next(options.draft == DraftMode::Auto, text);
}

void Planner::look_at(Tuner::Step& step, const DraftTree& tree, const Verdict& verdict, const Drafter& drafter,
                      Backend& backend) {
  step.accepted = static_cast<int>(verdict.nodes.size()) - 1;
  if (tuner_.arms().size() > 1) {
    for (const TokenId token : verdict.tokens) step.held.push_back(token < 0 ? ~0u : drafter.holders(token));
  }
  const std::span<const NodeNote> notes = tree.notes();
  if (notes.empty()) return;
  step.has_notes = true;
  const auto size = static_cast<std::size_t>(tree.size());
  parents_.resize(size);
  backend.download(parents_.data(), tree.view().parents, size * sizeof(std::int32_t));
  for (std::size_t i = 0; i < verdict.nodes.size(); ++i) {
    const std::int32_t node = verdict.nodes[i];
    const std::int32_t next = i + 1 < verdict.nodes.size() ? verdict.nodes[i + 1] : -1;
    bool has_children = false;
    for (auto child = static_cast<std::size_t>(node) + 1; child < size; ++child) {
      if (parents_[child] != node) continue;
      has_children = true;
      step.nodes.push_back({notes[child].cell, static_cast<std::int32_t>(child) == next});
    }
    if (has_children && node > 0) step.parents.push_back({notes[static_cast<std::size_t>(node)].cell, next >= 0});
  }
  for (const NodeNote& note : notes.subspan(1)) step.expected += static_cast<double>(note.chance);
}

Tuning Planner::found() const {
  const Tuner::Choice choice = tuner_.choice();
  Tuning found;
  found.drafts = choice.drafts;
  found.nodes = choice.nodes;
  found.levels = choice.levels;
  found.gain = choice.gain;
  found.cost = choice.cost;
  found.tokens_per_second = choice.tokens_per_second;
  found.plain_tokens_per_second = choice.plain_tokens_per_second;
  std::ostringstream out;
  out << std::fixed << std::setprecision(1);
  if (tuner_.arms().empty()) {
    out << "what the text repeats is drafted where it is likely enough";
  } else {
    const TimedArm& arm = tuner_.arms()[static_cast<std::size_t>(choice.arm)];
    found.head = arm.head;
    found.translation = arm.translation;
    out << (choice.drafts ? "drafting pays" : "drafting does not pay");
    if (choice.nodes > 0.0) {
      out << (choice.drafts ? ": " : ", and is tried now and then: ");
      if (!arm.translation.empty()) out << arm.translation << ", ";
      out << "head " << arm.head << ", trees of " << choice.nodes << " nodes and " << choice.levels
          << " levels on average, expected to give " << choice.gain << " tokens a step and to cost "
          << std::max(0.0, choice.cost);
    }
  }
  out << "; " << choice.tokens_per_second << " tokens/s expected, " << choice.plain_tokens_per_second
      << " without drafts";
  found.summary = out.str();
  return found;
}

void Planner::keep() {
  constexpr std::chrono::seconds kPeriod{2};
  const auto now = std::chrono::steady_clock::now();
  if (!file_ || now - kept_ < kPeriod) return;
  kept_ = now;
  (void)file_->write(tuner_.numbers());
}

}  // namespace frspec
