#include "engine/places.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace frspec {

std::int32_t Place::unwanted() const {
  if (!text) return committed;
  return committed - std::clamp(static_cast<std::int32_t>(text->own) - 1, 0, committed);
}

Places::Places(EngineParts& parts)
    : parts_(parts), runner_(*parts.runner), all_pages_(parts.target->pages()->pool().size()) {
  for (int number = 0; number < parts.target->limits().places; ++number) {
    places_.emplace_back(number, DraftTree::with_room(*parts.backend, parts.max_size, parts.max_depth));
  }
  place_ = places_.data();
}

void Places::use(Place& place) {
  place_ = &place;
  runner_.use(place.number);
  if (parts_.drafting) parts_.drafting->use_place(place.number);
}

Place* Places::of(const Sequence& sequence) {
  const auto own = std::ranges::find(places_, sequence.id(), &Place::owner);
  return own != places_.end() ? &*own : nullptr;
}

void Places::begin_step(std::span<Sequence* const> sequences) {
  order_.clear();
  for (const Sequence* sequence : sequences) order_.push_back(sequence->id());
  leave_ahead();
}

void Places::keep_those_before(const Sequence* sequence) {
  const auto own = sequence != nullptr ? std::find(order_.begin(), order_.end(), sequence->id()) : order_.begin();
  for (Place& place : places_) place.kept = std::find(order_.begin(), own, place.owner) != own;
}

bool Places::enter(Sequence& sequence) {
  if (Place* own = of(sequence); own != nullptr) {
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
  share_all(sequence.tokens());
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
  place_->sampler = sampler_of(sequence, runner_.token(0));
  if (sequence.options().grammar && !place_->guided) {
    place_->guided = std::make_unique<GuidedTrees>(*parts_.backend, parts_.target->config().vocab, parts_.max_size,
                                                   parts_.max_depth);
  }
  place_->draft.wanted = parts_.drafting && sequence.options().draft != DraftMode::Never;
  return true;
}

// What others have read may be the beginning of one that comes, too.
void Places::share_all(std::span<const TokenId> next_prompt) {
  for (Place& place : places_) {
    if (place.owner == 0) continue;
    if (place.is_idle()) {
      leave(place, next_prompt);
    } else if (place.begun) {
      use(place);
      const std::int32_t slots = place.draft.works() ? place.committed - place.draft.rows : place.committed;
      runner_.share(place.tokens(), slots, place.draft.works() ? slots : 0, place.reuse);
    }
  }
}

void Places::end(const Sequence& sequence) {
  if (Place* own = of(sequence); own != nullptr) {
    own->ended = true;
    use(*own);
    if (own->begun && !own->ahead) runner_.settle_state(own->unwanted());
  }
  ++given_up_;
  waiting_.erase(sequence.id());
}

bool Places::hold(std::int64_t tokens) {
  Place& own = *place_;
  const std::int64_t most = std::min<std::int64_t>(tokens, parts_.context);
  while (!runner_.reserve(most)) {
    Place* other = displaceable(&own);
    if (other == nullptr) return false;
    displace(*other);
    use(own);
  }
  return true;
}

void Places::wait(const Sequence& sequence) {
  // One that has read nothing gives nothing back that others had waited for.
  const bool gives = place_->read;
  const std::uint64_t before = given_up_;
  if (gives) ++displaced_;
  leave(*place_, {});
  if (!gives) given_up_ = before;
  waiting_[sequence.id()] = given_up_;
}

bool Places::waits(const Sequence& sequence) const {
  const auto found = waiting_.find(sequence.id());
  return found != waiting_.end() && found->second == given_up_;
}

// Who makes room first: those that have ended; those that nobody asks about now, the least lately used first; then
// those of this step, the last first. Null: nobody but `own` and those that this step serves already.
Place* Places::displaceable(const Place* own) {
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

void Places::displace(Place& place) {
  if (!place.is_idle()) ++displaced_;
  leave(place, {});
}

// What a step that was begun ahead has on the device is gone once another text's passes use it. So its text gives its
// place up, if it takes no part in what comes; the pages are kept.
void Places::leave_ahead() {
  for (Place& place : places_) {
    if (place.ahead && std::find(order_.begin(), order_.end(), place.owner) == order_.end()) displace(place);
  }
}

// What the sequence of a place has left in the caches is for others now, and the place is nobody's. `next_prompt`: of
// the sequence that comes.
void Places::leave(Place& place, std::span<const TokenId> next_prompt) {
  use(place);
  DraftState& draft = place.draft;
  const std::span<const TokenId> text = place.tokens();
  std::int32_t kept = place.committed, drafted = kept;
  if (parts_.drafting && parts_.drafting->drafter().reads_states()) {
    // The drafter has not read the last tokens: it does so now, if the next sequence goes on there.
    const auto apart = std::mismatch(text.begin(), text.end(), next_prompt.begin(), next_prompt.end());
    const bool goes_on = apart.first - text.begin() > kept - draft.rows;
    if (draft.works() && (goes_on || runner_.keeps_states())) {
      parts_.drafting->catch_up(draft, runner_.token(text.size()));
    }
    if (draft.works()) kept -= draft.rows;
    drafted = draft.works() ? kept : 0;
  }
  // What a step that failed, or one that goes ahead, has left is not the state behind these tokens.
  if (place.owner != 0 && place.begun && !place.ahead && kept == place.committed) {
    runner_.keep_state(text.first(static_cast<std::size_t>(kept)), place.reuse, place.unwanted());
  }
  if (place.begun) runner_.leave(text, kept, drafted, place.reuse);
  drop(place);
}

void Places::drop(Place& place) {
  use(place);
  runner_.leave({}, 0, 0, {.on = false});
  ++given_up_;
  std::unique_ptr<GuidedTrees> guided = std::move(place.guided);
  place = Place(place.number, std::move(place.tree));
  place.guided = std::move(guided);
}

void Places::drop_all() {
  for (Place& place : places_) drop(place);
}

void Places::give_up(Sequence& sequence, std::exception_ptr error) {
  sequence.fail(std::move(error));
  if (Place* own = of(sequence); own != nullptr) drop(*own);
  waiting_.erase(sequence.id());
}

void Places::take_over() {
  if (std::exchange(taken_over_, false)) drop(*place_);
  Place& last = *place_;
  for (Place& place : places_) {
    if (place.owner != 0) displace(place);
  }
  use(last);
  runner_.take_over();
  taken_over_ = true;
}

bool Places::others_are_plain() const {
  return std::none_of(places_.begin(), places_.end(), [this](const Place& place) {
    return &place != place_ && place.owner != 0 && !place.is_idle() && place.draft.works();
  });
}

Sampler Places::sampler_of(const Sequence& sequence, const std::int32_t* history) const {
  const GenerateOptions& options = sequence.options();
  const std::int64_t prompt = sequence.stats().prompt_tokens;
  SamplingOptions sampling = options.sampling;
  if (parts_.chaos && parts_.chaos->plants("seed")) sampling.seed += static_cast<std::uint64_t>(are_several());
  return {*parts_.backend,
          sampling,
          parts_.target->config().vocab,
          history,
          parts_.context,
          held_tokens(options),
          options.min_tokens > 0 ? prompt + options.min_tokens : 0};
}

// Tokens that would end the text, and are held back for its first min_tokens.
std::vector<TokenId> Places::held_tokens(const GenerateOptions& options) const {
  if (options.min_tokens == 0) return {};
  const Tokenizer& tokenizer = *parts_.tokenizer;
  std::vector<TokenId> held = options.stop_tokens;
  for (TokenId id = 0; id < tokenizer.size() && !options.ignore_eos; ++id) {
    if (tokenizer.is_end_of_generation(id)) held.push_back(id);
  }
  std::sort(held.begin(), held.end());
  held.erase(std::unique(held.begin(), held.end()), held.end());
  return held;
}

void Places::note_pages() {
  const SequencePages& pages = *parts_.target->pages();
  held_pages_ = pages.held();
  kept_pages_ = pages.kept();
}

void Places::disturb() {
  if (!parts_.chaos) return;
  Chaos& chaos = *parts_.chaos;
  SequencePages& pages = *parts_.target->pages();
  if (chaos.one_in(6)) {
    std::vector<Place*> taken;
    for (Place& place : places_) {
      if (place.owner != 0 && !place.ahead) taken.push_back(&place);
    }
    if (!taken.empty()) displace(*taken[static_cast<std::size_t>(chaos.below(static_cast<int>(taken.size())))]);
  }
  if (chaos.one_in(4)) pages.forget(1 + chaos.below(3));
  pages.shuffle(chaos);
}

}  // namespace frspec
