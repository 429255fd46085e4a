#include "engine/batch.h"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "base/error.h"
#include "engine/step_times.h"

namespace frspec {

Batch::Batch(EngineParts& parts, Places& places, Prefill& prefill, Iteration& iteration, PassBudget& budget)
    : parts_(parts), places_(places), prefill_(prefill), iteration_(iteration), budget_(budget) {}

void Batch::step(std::span<Sequence* const> sequences) {
  const auto start = Clock::now();
  members_.clear();
  gather(sequences);
  give_chunks();
  draft();
  std::erase_if(members_, [](const Member& member) { return member.tokens.empty() || member.sequence->error(); });
  if (members_.empty()) return;
  try {
    run();
  } catch (...) {
    for (const Member& member : members_) places_.give_up(*member.sequence, std::current_exception());
    return;
  }
  for (Member& member : members_) {
    places_.guard(*member.sequence, [&] {
      if (member.sequence->error()) std::rethrow_exception(member.sequence->error());
      take(member);
    });
  }
  for (Member& member : members_) {
    if (member.sequence->error()) continue;
    places_.guard(*member.sequence, [&] {
      places_.use(*member.place);
      iteration_.close(*member.sequence, member.reads, seconds_since(start));
    });
  }
}

// Those that have a place and room for their step.
void Batch::gather(std::span<Sequence* const> sequences) {
  places_.keep_those_before(nullptr);
  for (Sequence* sequence : sequences) {
    if (std::cmp_equal(members_.size(), parts_.target->limits().rows)) break;
    places_.guard(*sequence, [&] { join(*sequence); });
  }
}

void Batch::join(Sequence& sequence) {
  if (sequence.options().verify != VerifyMode::Keyed) {
    fail("verify: found rejection sampling of a text among others, expected that it is alone");
  }
  if (!members_.empty() && places_.waits(sequence)) return;
  if (!places_.enter(sequence)) return;
  Place& place = places_.current();
  if (!place.begun) prefill_.begin(sequence);
  const auto known = place.read ? std::int64_t{place.committed} + parts_.max_depth + 1
                                : static_cast<std::int64_t>(place.tokens().size());
  if (!places_.hold(known + 1)) return places_.wait(sequence);
  place.kept = true;
  members_.push_back({.sequence = &sequence, .place = &place, .reads = !place.read});
}

// Which rows of what is still to be read come along: of the sequence that is served first, and of that which has least
// to read.
void Batch::give_chunks() {
  std::vector<Member*> readers;
  for (Member& member : members_) {
    if (!member.reads) continue;
    readers.push_back(&member);
    places_.use(*member.place);
    const std::size_t size = member.place->tokens().size();
    const std::size_t border = parts_.runner->next_state(static_cast<std::size_t>(member.place->committed), size);
    member.border = static_cast<std::int64_t>(border > 0 ? border : size);
  }
  if (readers.empty()) return;
  const auto writers = static_cast<int>(members_.size() - readers.size());
  const int room = std::max(1, parts_.target->limits().rows - writers);
  // No more than the drafter reads at once, which is as large as a pass of one text.
  std::int64_t left = std::min(writers > 0 ? budget_.rows_beside(writers) : parts_.batch, room);
  if (parts_.chaos) left = 1 + parts_.chaos->below(static_cast<int>(left));
  const auto give = [&](Member& member, std::int64_t most) {
    const std::int64_t rows = std::min({most, left, member.border - member.place->committed - member.chunk});
    member.chunk += static_cast<int>(rows);
    left -= rows;
  };
  give(*readers[0], std::max<std::int64_t>(1, left / 2));
  std::stable_sort(readers.begin() + 1, readers.end(),
                   [](const Member* a, const Member* b) { return a->place->unread() < b->place->unread(); });
  for (std::size_t i = 1; i < readers.size(); ++i) give(*readers[i], left);
  give(*readers[0], left);
  for (Member* member : readers) {
    const auto from = member->place->tokens().subspan(static_cast<std::size_t>(member->place->committed));
    member->tokens.assign(from.begin(), from.begin() + member->chunk);
    // The last row of all is the root of a tree that is it alone.
    member->asks = member->chunk == member->place->unread();
    member->step.is_first = member->asks;
    if (member->asks) --member->chunk;
  }
}

// Trees of those that are written, one after the other.
void Batch::draft() {
  const int texts = static_cast<int>(members_.size());
  int rows = 0, nodes = 0, piece = budget_.drafter_rows();
  if (parts_.chaos) piece = parts_.chaos->below(piece + 1);
  for (const Member& member : members_) rows += member.reads ? static_cast<int>(member.tokens.size()) : 1;
  const int most = parts_.target->limits().rows, most_nodes = parts_.runner->tree_rows();
  for (Member& member : members_) {
    const GenerateOptions& options = member.sequence->options();
    if (member.reads) {
      if (!member.asks || !options.grammar) continue;
      places_.guard(*member.sequence, [&] { member.allowed = member.place->guided->after(*options.grammar); });
      continue;
    }
    places_.guard(*member.sequence, [&] {
      places_.use(*member.place);
      member.step.pass = {.texts = texts, .rows = rows - 1};
      draft(member, std::min(most - rows, most_nodes - nodes - 1), piece);
      if (member.step.read_rows > Tuner::kUsualRows) piece = std::max(0, piece - member.step.read_rows);
      rows += static_cast<int>(member.tokens.size()) - 1;
      nodes += member.tokens.size() > 1 ? static_cast<int>(member.tokens.size()) : 0;
    });
  }
  choose_teller(rows);
}

// What the pass takes is learned once, of as many rows as it has; of one that tells the planner, if there is one.
void Batch::choose_teller(int rows) {
  const Member* teller = nullptr;
  for (const Member& member : members_) {
    if (member.reads || (teller != nullptr && tells_planner(*teller))) continue;
    if (teller == nullptr || tells_planner(member)) teller = &member;
  }
  for (Member& member : members_) {
    member.step.pass_is_counted = &member != teller;
    member.step.pass.rows = rows - static_cast<int>(member.tokens.size());
  }
}

bool Batch::tells_planner(const Member& member) {
  return !member.sequence->error() && Accounts::tells_planner(*member.sequence, member.step);
}

// One of them, of which the pass has room for `room` rows beside the root, and the drafter for so many to read.
void Batch::draft(Member& member, int room, int drafter_rows) {
  const auto start = Clock::now();
  Step& step = member.step;
  DraftTree& tree = member.place->tree;
  const GenerateOptions& options = member.sequence->options();
  step.limits = options.limits;
  step.piece = drafter_rows;
  // A tree that is only looked at needs no room.
  if (room < parts_.max_size - 1 && options.draft != DraftMode::Watch) {
    step.limits = step.limits.within(std::max(0, room));
  }
  iteration_.draft(*member.sequence, step);
  member.asks = true;
  if (step.tree->size() > 1) {
    read_nodes(*parts_.backend, step.tree->view(), member.tokens, member.parents);
  } else {
    member.tokens = {member.place->tokens().back()};
    member.parents = {-1};
  }
  if (step.tree != &tree) {
    tree.assign(*parts_.backend, member.tokens, member.parents, step.tree->notes());
    tree.set_allowed(step.tree->allowed());
  }
  step.tree = &tree;
  step.grown_seconds = seconds_since(start);
  const bool asked = parts_.drafting && (step.plan.planned || step.plan.drafts);
  step.head_seconds = asked ? parts_.drafting->head_seconds() : 0.0;
}

// The pass, and what it says of each tree.
void Batch::run() {
  const auto start = Clock::now();
  const int rows = forward();
  std::vector<Verifier::Asked> asked;
  std::vector<Member*> asking;
  for (Member& member : members_) {
    places_.use(*member.place);
    if (member.chunk > 0) parts_.runner->commit_rows(member.chunk);
    if (member.reads && !member.asks && parts_.runner->keeps_states()) keep_border(member);
    if (!member.asks) continue;
    asked.push_back(question(member, rows));
    asking.push_back(&member);
  }
  Verifier& verifier = parts_.runner->verifier();
  const std::vector<std::exception_ptr> errors = verifier.verify(asked);
  int written = rows;
  for (const Member& member : members_) written -= member.chunk;
  budget_.note(rows, written, seconds_since(start));
  for (std::size_t i = 0; i < asking.size(); ++i) {
    Member& member = *asking[i];
    member.asked = i;
    member.step.verdict = &verifier.verdict_of(i);
    member.step.target_seconds = seconds_since(start);
    if (errors[i]) {
      member.sequence->fail(errors[i]);
      continue;
    }
    places_.use(*member.place);
    parts_.runner->commit(*member.step.tree, *member.step.verdict);
  }
}

// How many rows it has.
int Batch::forward() {
  std::vector<TargetRunner::Part> parts;
  for (const Member& member : members_) {
    parts.push_back({.place = member.place->number, .tokens = member.tokens, .parents = member.parents});
  }
  parts_.runner->forward(parts);
  for (std::size_t i = 0; i < members_.size(); ++i) members_[i].first = parts[i].first;
  return parts.back().first + static_cast<int>(parts.back().tokens.size());
}

// What the verifier is asked about the member whose place is in use, in a pass of so many rows.
Verifier::Asked Batch::question(Member& member, int rows) {
  Place& place = *member.place;
  if (member.reads) {
    place.tree.assign(*parts_.backend, std::span(member.tokens).last(1), std::array<std::int32_t, 1>{-1});
    place.tree.set_allowed(member.allowed);
    member.step.tree = &place.tree;
  }
  const int first = member.first + member.chunk;
  const int size = member.step.tree->size();
  member.step.states = parts_.target->hidden(rows).row_range(first, size);
  member.step.features = parts_.target->features(rows).row_range(first, size);
  return {.tree = member.step.tree,
          .sequence = parts_.runner->sequence(),
          .first = first,
          .sampler = &place.sampler,
          .processor = &member.sequence->options().logits_processor,
          .text = place.tokens()};
}

// Where a text that begins like this one could go on.
void Batch::keep_border(const Member& member) {
  const Place& place = *member.place;
  const std::int64_t committed = std::int64_t{place.committed} + member.chunk;
  if (committed != member.border) return;
  parts_.runner->keep_state(place.tokens().first(static_cast<std::size_t>(committed)), place.reuse);
}

// What the pass has given to one of them.
void Batch::take(Member& member) {
  Place& place = *member.place;
  places_.use(place);
  const bool drafts = place.draft.works();
  if (member.reads) {
    const auto first = static_cast<std::size_t>(place.committed);
    if (drafts && member.chunk > 0) {
      const Tensor features = parts_.target->features(member.first + member.chunk);
      parts_.drafting->read(place.draft, features.row_range(member.first, member.chunk),
                            parts_.runner->token(first + 1));
    }
    place.committed += member.chunk;
    member.sequence->stats().read_tokens = place.committed;
    if (!member.asks) return;
    place.read = true;
    const std::span<const TokenId> text = place.tokens();
    if (drafts) parts_.drafting->extend(place.draft, {text, text.first(text.size() - 1)});
  }
  const bool is_another = parts_.chaos && parts_.chaos->plants("row") && member.asked > 0;
  const Verdict& verdict = parts_.runner->verifier().read_of(is_another ? member.asked - 1 : member.asked);
  iteration_.take(*member.sequence, member.step, verdict);
}

}  // namespace frspec
