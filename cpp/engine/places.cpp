// The places of an engine: which sequence has which, and whose caches make room for whom. A sequence without a place is
// not lost: its tokens are read again when it has one (contract 8).
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"

namespace frspec {

// The place that all is about from now on.
void Engine::use(Place& place) {
  place_ = &place;
  runner_->use(place.number);
  if (drafting_) drafting_->turn_to(place.number);
}

Engine::Place* Engine::place_of(const Sequence& sequence) {
  const auto own = std::ranges::find(places_, sequence.id(), &Place::owner);
  return own != places_.end() ? &*own : nullptr;
}

// Turns to the sequence's place, which it is given where it has none. False: others have all of them.
bool Engine::enter(Sequence& sequence) {
  if (Place* own = place_of(sequence); own != nullptr) {
    use(*own);
    place_->used = ++clock_;
    return true;
  }
  const bool goes_on = sequence.stats().generated_tokens > 0;
  if (goes_on && sequence.options().verify != VerifyMode::Keyed) {
    throw Error(
        "this generation cannot go on: another text took its place, and rejection sampling depends on what was "
        "drafted");
  }
  if (std::exchange(taken_over_, false)) drop(*place_);
  // What others have read may be this one's beginning, too.
  for (Place& place : places_) {
    if (place.owner == 0) continue;
    if (place.is_idle()) {
      leave(place, sequence.tokens());
    } else if (place.begun) {
      use(place);
      const std::int32_t slots = place.draft.works() ? place.committed - place.draft.rows : place.committed;
      runner_->share(place.text, slots, place.draft.works() ? slots : 0, place.reuse);
    }
  }
  auto free = std::find_if(places_.begin(), places_.end(), [](const Place& place) { return place.owner == 0; });
  if (free == places_.end()) {
    Place* other = displaceable(nullptr);
    if (other == nullptr) return false;
    displace(*other);
    free = places_.begin() + other->number;
  }
  use(*free);
  place_->owner = sequence.id();
  place_->life = sequence.life();
  place_->used = ++clock_;
  place_->sampler = sampler_of(sequence, runner_->token(0));
  if (sequence.options().grammar && !place_->guided) {
    place_->guided = std::make_unique<GuidedTrees>(*backend_, target_->config().vocab, max_size_, max_depth_);
  }
  place_->draft.wanted = drafting_ && sequence.options().draft != DraftMode::Never;
  return true;
}

// Its place may be others' as soon as somebody comes who wants one: until then it is not known what of it is of use.
void Engine::end(const Sequence& sequence) {
  if (Place* own = place_of(sequence); own != nullptr) {
    own->ended = true;
    use(*own);
    if (own->begun && !own->ahead) runner_->settle_state(own->unwanted());
  }
  ++given_up_;
  refused_.erase(sequence.id());
}

// From now on the sequence in use has room for so many tokens, and the trees behind them. False: it would have to take
// it from those that are served before it.
bool Engine::hold(std::int64_t tokens) {
  Place& own = *place_;
  const std::int64_t most = std::min<std::int64_t>(tokens, context_);
  while (!runner_->reserve(most)) {
    Place* other = displaceable(&own);
    if (other == nullptr) return false;
    displace(*other);
    use(own);
  }
  return true;
}

// Who makes room first: those that have ended; those that nobody asks about now, the least lately used first; then
// those of this step, the last first. Null: nobody but `own` and those that this step serves already.
Engine::Place* Engine::displaceable(const Place* own) {
  const auto rank = [&](const Place& place) -> std::pair<std::size_t, std::uint64_t> {
    if (place.is_idle()) return {0, place.used};
    const auto at = std::find(order_.begin(), order_.end(), place.owner);
    if (at == order_.end()) return {1, place.used};
    return {1 + static_cast<std::size_t>(order_.end() - at), place.used};
  };
  Place* found = nullptr;
  for (Place& place : places_) {
    if (place.owner == 0 || place.kept || &place == own) continue;
    if (found == nullptr || rank(place) < rank(*found)) found = &place;
  }
  return found;
}

void Engine::displace(Place& place) {
  if (!place.is_idle()) ++displaced_;
  leave(place, {});
}

// What a step that was begun ahead has on the device is gone once another text's passes use it. So its text gives its
// place up, if it takes no part in what comes; the pages are kept.
void Engine::leave_ahead() {
  for (Place& place : places_) {
    if (place.ahead && std::find(order_.begin(), order_.end(), place.owner) == order_.end()) displace(place);
  }
}

// What the sequence of a place has left in the caches is for others now, and the place is nobody's. `next_prompt`: of
// the sequence that comes.
void Engine::leave(Place& place, std::span<const TokenId> next_prompt) {
  use(place);
  DraftState& draft = place.draft;
  std::int32_t kept = place.committed, drafted = kept;
  if (drafting_ && drafting_->drafter().reads_states()) {
    // The drafter has not read the last tokens: it does so now, if the next sequence goes on there.
    const auto parts = std::mismatch(place.text.begin(), place.text.end(), next_prompt.begin(), next_prompt.end());
    const bool goes_on = parts.first - place.text.begin() > kept - draft.rows;
    if (draft.works() && (goes_on || runner_->keeps_states())) {
      drafting_->catch_up(draft, runner_->token(place.text.size()));
    }
    if (draft.works()) kept -= draft.rows;
    drafted = draft.works() ? kept : 0;
  }
  // What a step that failed, or one that goes ahead, has left is not the state behind these tokens.
  if (place.owner != 0 && place.begun && !place.ahead && kept == place.committed) {
    runner_->keep_state(std::span(place.text).first(static_cast<std::size_t>(kept)), place.reuse, place.unwanted());
  }
  if (place.begun) runner_->leave(place.text, kept, drafted, place.reuse);
  drop(place);
}

// Nobody has the place any more, and what is in its caches is of no use.
void Engine::drop(Place& place) {
  use(place);
  runner_->leave({}, 0, 0, {.on = false});
  ++given_up_;
  std::unique_ptr<GuidedTrees> guided = std::move(place.guided);
  place = Place(place.number, std::move(place.tree));
  place.guided = std::move(guided);
}

// The sequence can go on no more, and what it has left in the caches may be half a step's.
void Engine::give_up(Sequence& sequence, std::exception_ptr error) {
  sequence.fail(std::move(error));
  if (Place* own = place_of(sequence); own != nullptr) drop(*own);
  refused_.erase(sequence.id());
}

void Engine::leave_all() {
  if (std::exchange(taken_over_, false)) drop(*place_);
  Place& last = *place_;
  for (Place& place : places_) {
    if (place.owner != 0) displace(place);
  }
  use(last);
}

}  // namespace frspec
