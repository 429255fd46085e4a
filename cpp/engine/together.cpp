// A step of several sequences: one pass of the target for the trees of those that are written, and for chunks of what
// others are still to read. What each is given is what it would be given alone.
#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/step_times.h"

namespace frspec {
namespace {

// Rows of a pass for prompts where texts are being written beside, which wait for it: so many that a row costs little
// more than in a large pass; and at least, where a user says how long they may wait. So many a drafter reads beside
// them.
constexpr int kRowsBeside = 64, kLeastRowsBeside = 16;

}  // namespace

// What takes part in the step.
struct Engine::Member {
  Sequence* sequence;
  Place* place;
  Step step = {};
  bool reads = false;                                   // it has still something to read
  std::int64_t border = 0;                              // of its tokens, behind which no chunk of that goes
  int chunk = 0;                                        // rows of that in this pass
  bool asks = false;                                    // whether the pass gives it a token
  std::vector<std::int32_t> tokens = {}, parents = {};  // of its rows; parents: of a tree
  TokenBits allowed = {};                               // by its grammar, behind what it has read
  int first = 0;                                        // row of the pass
  std::size_t asked = 0;                                // which of those that the verifier was asked about
  std::int64_t unread() const { return static_cast<std::int64_t>(place->text.size()) - place->committed; }
};

void Engine::step(std::span<Sequence* const> sequences) {
  const auto held = lock();
  step_all(sequences);
  note_pages();
}

void Engine::step_all(std::span<Sequence* const> sequences) {
  std::vector<Sequence*> running;
  order_.clear();
  for (Sequence* sequence : sequences) {
    sequence->begin_step();
    if (sequence->finish_reason() != FinishReason::None || sequence->error()) continue;
    running.push_back(sequence);
    order_.push_back(sequence->id());
  }
  leave_ahead();
  if (chaos_) disturb();
  const auto advance_if = [&](auto&& wanted) {
    std::erase_if(running, [&](Sequence* sequence) {
      if (!wanted(*sequence)) return false;
      guard(*sequence, [&] { advance(*sequence); });
      return true;
    });
  };
  // One whose step has begun already has that for itself, before others use the device; and one that is cancelled takes
  // no part.
  if (running.size() > 1) {
    advance_if([&](const Sequence& sequence) {
      const Place* own = place_of(sequence);
      return own != nullptr && own->ahead;
    });
  }
  advance_if([](const Sequence& sequence) { return sequence.cancelled(); });
  if (running.empty()) return;
  // With one place, others wait until the first has written its text.
  if (places_.size() == 1) running.erase(running.begin() + 1, running.end());
  const auto is_short = [&](const Sequence& sequence) {
    const Place* own = place_of(sequence);
    return own != nullptr && own->read;
  };
  const bool is_alone = running.size() == 1;
  if (is_alone && (running[0]->options().verify != VerifyMode::Keyed || is_short(*running[0]) ||
                   std::cmp_less_equal(running[0]->tokens().size(), batch_))) {
    guard(*running[0], [&] { advance(*running[0]); });
  } else {
    step_together(running);
  }
}

void Engine::step_together(std::span<Sequence* const> sequences) {
  const auto start = Clock::now();
  std::vector<Member> members;
  gather(sequences, members);
  give_chunks(members);
  draft(members);
  std::erase_if(members, [](const Member& member) { return member.tokens.empty() || member.sequence->error(); });
  if (members.empty()) return;
  try {
    run(members);
  } catch (...) {
    for (const Member& member : members) give_up(*member.sequence, std::current_exception());
    return;
  }
  for (Member& member : members) {
    guard(*member.sequence, [&] {
      if (member.sequence->error()) std::rethrow_exception(member.sequence->error());
      take(member);
    });
  }
  for (Member& member : members) {
    if (member.sequence->error()) continue;
    guard(*member.sequence, [&] {
      use(*member.place);
      close_times(*member.sequence, member.reads, seconds_since(start));
      close_step(*member.sequence);
    });
  }
}

// Those that have a place and room for their step.
void Engine::gather(std::span<Sequence* const> sequences, std::vector<Member>& members) {
  for (Place& place : places_) place.kept = false;
  for (Sequence* sequence : sequences) {
    if (std::cmp_equal(members.size(), target_->limits().rows)) break;
    guard(*sequence, [&] {
      if (sequence->options().verify != VerifyMode::Keyed) {
        fail("verify: found rejection sampling of a text among ", sequences.size(), ", expected that it is alone");
      }
      const auto refused = refused_.find(sequence->id());
      if (!members.empty() && refused != refused_.end() && refused->second == given_up_) return;
      if (!enter(*sequence)) return;
      if (!place_->begun) begin_reading(*sequence);
      const auto known = place_->read ? std::int64_t{place_->committed} + max_depth_ + 1
                                      : static_cast<std::int64_t>(place_->text.size());
      if (!hold(known + 1)) {
        // One that has read nothing gives nothing back that others had waited for.
        const bool gives = place_->read;
        const std::uint64_t before = given_up_;
        if (gives) ++displaced_;
        leave(*place_, {});
        if (!gives) given_up_ = before;
        refused_[sequence->id()] = given_up_;
        return;
      }
      place_->kept = true;
      members.push_back({.sequence = sequence, .place = place_, .reads = !place_->read});
    });
  }
}

// What a pass took, where a user says how long texts may wait. `written`: its rows without those of prompts.
void Engine::note_pass(int rows, int written, double seconds) {
  if (options_.step_ms == 0) return;
  passes_.add(rows, seconds);
  rows_written_ = written;
}

// How many rows of prompts come along with so many texts that are written.
int Engine::rows_beside(int writers) const {
  const int least = std::min(kLeastRowsBeside, batch_);
  const int written = std::max(writers, rows_written_);  // drafts among them
  if (options_.step_ms == 0 || !passes_.is_known()) return std::min(kRowsBeside, batch_);
  double seconds = options_.step_ms / 1000.0;
  if (passes_.is_known_up_to(written)) seconds = std::max(seconds, 2.0 * passes_(written));
  return passes_.rows_within(seconds, written + least, written + batch_) - written;
}

// How many rows of prompts a drafter reads beside a pass, of all texts.
int Engine::drafter_piece() const { return options_.step_ms == 0 ? kRowsBeside : kLeastRowsBeside; }

// Which rows of what is still to be read come along: of the sequence that is served first, and of that which has least
// to read.
void Engine::give_chunks(std::vector<Member>& members) {
  std::vector<Member*> readers;
  for (Member& member : members) {
    if (!member.reads) continue;
    readers.push_back(&member);
    use(*member.place);
    const std::size_t size = member.place->text.size();
    const std::size_t border = runner_->next_state(static_cast<std::size_t>(member.place->committed), size);
    member.border = static_cast<std::int64_t>(border > 0 ? border : size);
  }
  const auto writers = static_cast<int>(members.size() - readers.size());
  const int room = std::max(1, target_->limits().rows - writers);
  // No more than the drafter reads at once, which is as large as a pass of one text.
  std::int64_t left = std::min(writers > 0 ? rows_beside(writers) : batch_, room);
  if (readers.empty()) return;
  if (chaos_) left = 1 + chaos_->below(static_cast<int>(left));
  const auto give = [&](Member& member, std::int64_t most) {
    const std::int64_t rows = std::min({most, left, member.border - member.place->committed - member.chunk});
    member.chunk += static_cast<int>(rows);
    left -= rows;
  };
  give(*readers[0], std::max<std::int64_t>(1, left / 2));
  std::stable_sort(readers.begin() + 1, readers.end(),
                   [](const Member* a, const Member* b) { return a->unread() < b->unread(); });
  for (std::size_t i = 1; i < readers.size(); ++i) give(*readers[i], left);
  give(*readers[0], left);
  for (Member* member : readers) {
    const auto from = member->place->text.begin() + member->place->committed;
    member->tokens.assign(from, from + member->chunk);
    // The last row of all is the root of a tree that is it alone.
    member->asks = member->chunk == member->unread();
    member->step.is_first = member->asks;
    if (member->asks) --member->chunk;
  }
}

bool Engine::tells_planner(const Member& member) {
  return !member.sequence->error() && tells_planner(*member.sequence, member.step);
}

// Trees of those that are written, one after the other.
void Engine::draft(std::vector<Member>& members) {
  const int texts = static_cast<int>(members.size());
  int rows = 0, nodes = 0, piece = drafter_piece();
  if (chaos_) piece = chaos_->below(piece + 1);
  for (const Member& member : members) rows += member.reads ? static_cast<int>(member.tokens.size()) : 1;
  const int most = target_->limits().rows, most_nodes = runner_->tree_rows();
  for (Member& member : members) {
    const GenerateOptions& options = member.sequence->options();
    if (member.reads) {
      if (!member.asks || !options.grammar) continue;
      guard(*member.sequence, [&] { member.allowed = member.place->guided->after(*options.grammar); });
      continue;
    }
    guard(*member.sequence, [&] {
      use(*member.place);
      member.step.company = {.texts = texts, .rows = rows - 1};
      draft(member, std::min(most - rows, most_nodes - nodes - 1), piece);
      if (member.step.told > Tuner::kUsualRows) piece = std::max(0, piece - member.step.told);
      rows += static_cast<int>(member.tokens.size()) - 1;
      nodes += member.tokens.size() > 1 ? static_cast<int>(member.tokens.size()) : 0;
    });
  }
  // What the pass takes is learned once, of as many rows as it has; of one that tells the planner, if there is one.
  const Member* teller = nullptr;
  for (const Member& member : members) {
    if (member.reads || (teller != nullptr && tells_planner(*teller))) continue;
    if (teller == nullptr || tells_planner(member)) teller = &member;
  }
  for (Member& member : members) {
    member.step.told_of_pass = &member != teller;
    member.step.company.rows = rows - static_cast<int>(member.tokens.size());
  }
}

// One of them, of which the pass has room for `room` rows beside the root, and the drafter for a piece to read.
void Engine::draft(Member& member, int room, int piece) {
  const auto start = Clock::now();
  Step& step = member.step;
  DraftTree& tree = place_->tree;
  const GenerateOptions& options = member.sequence->options();
  step.limits = options.limits;
  step.piece = piece;
  // A tree that is only looked at needs no room.
  if (room < max_size_ - 1 && options.draft != DraftMode::Watch) step.limits = step.limits.within(std::max(0, room));
  draft(*member.sequence, step, nullptr);
  member.asks = true;
  if (step.tree->size() > 1) {
    read_nodes(*backend_, step.tree->view(), member.tokens, member.parents);
  } else {
    member.tokens = {place_->text.back()};
    member.parents = {-1};
  }
  if (step.tree != &tree) {
    tree.assign(*backend_, member.tokens, member.parents, step.tree->notes());
    tree.set_allowed(step.tree->allowed());
  }
  step.tree = &tree;
  step.grown_seconds = seconds_since(start);
  step.head_seconds = drafting_ && (step.plan.planned || step.plan.drafts) ? drafting_->head_seconds() : 0.0;
}

// The pass, and what it says of each tree.
void Engine::run(std::vector<Member>& members) {
  const auto start = Clock::now();
  std::vector<TargetRunner::Part> parts;
  for (const Member& member : members) {
    parts.push_back({.place = member.place->number, .tokens = member.tokens, .parents = member.parents});
  }
  runner_->forward(parts);
  const TargetRunner::Part& last = parts.back();
  const int rows = last.first + static_cast<int>(last.tokens.size());
  std::vector<Verifier::Asked> asked;
  std::vector<Member*> asking;
  for (std::size_t i = 0; i < members.size(); ++i) {
    Member& member = members[i];
    use(*member.place);
    member.first = parts[i].first;
    if (member.chunk > 0) runner_->commit_rows(member.chunk);
    if (member.reads && !member.asks && runner_->keeps_states()) keep_border(member);
    if (!member.asks) continue;
    if (member.reads) {
      place_->tree.assign(*backend_, std::span(member.tokens).last(1), std::array<std::int32_t, 1>{-1});
      place_->tree.set_allowed(member.allowed);
      member.step.tree = &place_->tree;
    }
    const int first = member.first + member.chunk;
    const int size = member.step.tree->size();
    member.step.states = target_->hidden(rows).row_range(first, size);
    member.step.features = target_->features(rows).row_range(first, size);
    asked.push_back({.tree = member.step.tree,
                     .sequence = runner_->sequence(),
                     .first = first,
                     .sampler = &place_->sampler,
                     .processor = &member.sequence->options().logits_processor,
                     .text = place_->text});
    asking.push_back(&member);
  }
  Verifier& verifier = runner_->verifier();
  const std::vector<std::exception_ptr> errors = verifier.verify(asked);
  int written = rows;
  for (const Member& member : members) written -= member.chunk;
  note_pass(rows, written, seconds_since(start));
  for (std::size_t i = 0; i < asking.size(); ++i) {
    Member& member = *asking[i];
    member.asked = i;
    member.step.verdict = &verifier.verdict_of(i);
    member.step.target_seconds = seconds_since(start);
    if (errors[i]) {
      member.sequence->fail(errors[i]);
      continue;
    }
    use(*member.place);
    runner_->commit(*member.step.tree, *member.step.verdict);
  }
}

// Where a text that begins like this one could go on.
void Engine::keep_border(const Member& member) {
  const std::int64_t committed = std::int64_t{place_->committed} + member.chunk;
  if (committed != member.border) return;
  runner_->keep_state(std::span(place_->text).first(static_cast<std::size_t>(committed)), place_->reuse);
}

// What the pass has given to one of them.
void Engine::take(Member& member) {
  use(*member.place);
  const bool drafts = place_->draft.works();
  if (member.reads) {
    const auto first = static_cast<std::size_t>(place_->committed);
    if (drafts && member.chunk > 0) {
      drafting_->read(place_->draft,
                      target_->features(member.first + member.chunk).row_range(member.first, member.chunk),
                      runner_->token(first + 1));
    }
    place_->committed += member.chunk;
    member.sequence->stats().read_tokens = place_->committed;
    if (!member.asks) return;
    place_->read = true;
    const std::span<const TokenId> text = place_->text;
    if (drafts) drafting_->extend(place_->draft, {text, text.first(text.size() - 1)});
  }
  const bool is_another = chaos_ && chaos_->plants("row") && member.asked > 0;
  take(*member.sequence, member.step, runner_->verifier().read_of(is_another ? member.asked - 1 : member.asked));
}

}  // namespace frspec
