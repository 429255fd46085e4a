#include "engine/prefill.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "engine/step_times.h"

namespace frspec {
namespace {

// What the text is predicted to be, behind the end of its prompt: so it is found at once.
std::vector<TokenId> predicted(const Sequence& sequence) {
  const std::vector<TokenId>& prediction = sequence.options().prediction;
  if (prediction.empty()) return {};
  const std::span<const TokenId> prompt = sequence.prompt();
  const auto end = prompt.last(std::min<std::size_t>(prompt.size(), kNgram));
  std::vector<TokenId> found(end.begin(), end.end());
  found.insert(found.end(), prediction.begin(), prediction.end());
  return found;
}

}  // namespace

void Prefill::begin(Sequence& sequence) {
  const GenerateOptions& options = sequence.options();
  Place& place = places_.current();
  const std::size_t most = sequence.reserve(parts_.target->limits().tree);
  place.text = sequence.text();
  place.reuse = {options.reuse, options.salt, place.draft.works() && parts_.drafting->drafter().reads_states()};
  place.committed = parts_.runner->begin(place.tokens(), place.reuse);
  place.begun = true;
  if (sequence.stats().generated_tokens == 0) sequence.stats().cached_tokens = place.committed;
  sequence.stats().read_tokens = place.committed;
  if (parts_.planner) parts_.planner->begin_text(options.sampling.temperature > 0.0f);
  if (place.draft.works()) begin_drafting(sequence, most);
  if (place.draft.works()) parts_.drafting->resume(place.draft, place.committed);
}

void Prefill::begin_drafting(Sequence& sequence, std::size_t most) {
  const auto start = Clock::now();
  Place& place = places_.current();
  RankKeeper* ranks = parts_.ranks.get();
  const std::int64_t replaced = ranks != nullptr ? ranks->replaced() : 0;
  const bool is_keyed = sequence.options().verify == VerifyMode::Keyed;
  parts_.drafting->begin(place.draft, {.chain = &place.sampler.chain(),
                                       .draw = place.sampler.draw(),
                                       .sequence = parts_.runner->sequence(),
                                       .rejection = is_keyed ? nullptr : &place.rejection,
                                       .reuse = place.reuse,
                                       .alone = places_.others_are_plain(),
                                       .most = most,
                                       .prediction = predicted(sequence)});
  if (ranks == nullptr) return;
  sequence.stats().adapted_rows = ranks->replaced() - replaced;
  sequence.stats().adapt_seconds = seconds_since(start);
}

// The drafter's pair at a position needs the token that follows, which for the last position is the one that comes of
// it.
bool Prefill::read(Sequence& sequence) {
  Place& place = places_.current();
  TargetRunner& runner = *parts_.runner;
  const std::size_t known = place.tokens().size();
  for (auto first = static_cast<std::size_t>(place.committed); first < known;) {
    const std::size_t border = runner.next_state(first, known);
    const std::size_t end = std::min(first + static_cast<std::size_t>(parts_.batch), border > 0 ? border : known);
    const int rows = static_cast<int>(end - first);
    if (!runner.read(first, rows, [&] { return sequence.goes_on(); })) {
      abandon();
      return false;
    }
    runner.commit_rows(rows);
    if (end == border) runner.keep_state(place.tokens().first(end), place.reuse);
    if (end == known) append_first(sequence, rows);
    if (place.draft.works()) {
      parts_.drafting->read(place.draft, parts_.target->features(rows), runner.token(first + 1));
    }
    place.committed += rows;
    sequence.stats().read_tokens = place.committed;
    first = end;
  }
  if (place.draft.works()) parts_.drafting->extend(place.draft, {place.tokens(), place.tokens().first(known)});
  return true;
}

// Some layers' states have read the last rows, others' have not: where that matters it begins again, from what was
// kept.
void Prefill::abandon() {
  if (!parts_.runner->keeps_states()) return;
  Place& place = places_.current();
  const bool told = !parts_.drafting || !parts_.drafting->drafter().reads_states() || place.draft.works();
  parts_.runner->leave(place.tokens(), place.committed, told ? place.committed : 0, place.reuse);
  places_.drop(place);
}

// The token behind all that was known, of which the last pass had the last `rows` tokens.
void Prefill::append_first(Sequence& sequence, int rows) {
  const GenerateOptions& options = sequence.options();
  const Place& place = places_.current();
  TargetRunner& runner = *parts_.runner;
  const std::size_t length = place.tokens().size();
  const TokenBits allowed = options.grammar ? place.guided->after(*options.grammar) : TokenBits{};
  const std::array first = {
      runner.sample_first(rows, length, place.sampler, options.logits_processor, place.tokens(), allowed)};
  sequence.append(first);
  if (!options.logprobs) return;
  for (TokenLogprobs& found : runner.logprobs_of_root(rows, length, sequence.fresh().size(), *options.logprobs)) {
    sequence.add(std::move(found));
  }
}

}  // namespace frspec
