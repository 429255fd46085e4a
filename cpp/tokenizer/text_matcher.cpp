#include "tokenizer/text_matcher.h"

namespace frspec {

TextMatcher::TextMatcher(std::span<const Pattern> patterns) {
  root_children_.fill(kNone);
  states_.emplace_back();
  for (const Pattern& pattern : patterns) {
    std::int32_t state = 0;
    for (const char c : pattern.text) state = add_child(state, static_cast<unsigned char>(c));
    states_[state].match = pattern.id;
    states_[state].match_length = states_[state].depth;
  }
  link_failures();
}

std::int32_t TextMatcher::child(std::int32_t state, unsigned char byte) const {
  if (state == 0) return root_children_[byte];
  std::int32_t next = states_[state].first_child;
  while (next != kNone && states_[next].byte != byte) next = states_[next].next_sibling;
  return next;
}

std::int32_t TextMatcher::add_child(std::int32_t state, unsigned char byte) {
  const std::int32_t known = child(state, byte);
  if (known != kNone) return known;
  const auto added = static_cast<std::int32_t>(states_.size());
  State& fresh = states_.emplace_back();
  fresh.byte = byte;
  fresh.depth = states_[state].depth + 1;
  fresh.next_sibling = states_[state].first_child;
  states_[state].first_child = added;
  if (state == 0) root_children_[byte] = added;
  return added;
}

// Breadth first, so that shorter states are complete. A failure would drop the first bytes of a state: where a match
// begins with them, it is the leftmost one and must not be dropped, so the link is cut.
void TextMatcher::link_failures() {
  std::vector<std::int32_t> queue = {0};
  for (std::size_t i = 0; i < queue.size(); ++i) {
    const std::int32_t parent = queue[i];
    for (std::int32_t at = states_[parent].first_child; at != kNone; at = states_[at].next_sibling) {
      State& state = states_[at];
      queue.push_back(at);
      state.within_match = states_[parent].within_match || state.match != kNone;
      if (state.within_match) {
        state.failure = kNone;
        continue;
      }
      if (parent == 0) continue;  // fails to the root
      std::int32_t failure = states_[parent].failure;
      while (failure > 0 && child(failure, state.byte) == kNone) failure = states_[failure].failure;
      if (failure != kNone) {
        const std::int32_t longer = child(failure, state.byte);
        failure = longer == kNone ? 0 : longer;
        state.match = states_[failure].match;  // a later, shorter match that counts unless this state completes
        state.match_length = states_[failure].match_length;
      }
      state.failure = failure;
    }
  }
}

TextMatcher::Match TextMatcher::find(std::string_view text, std::size_t from) const {
  Match found = {0, 0, kNone};
  std::int32_t state = 0;
  std::size_t at = from;
  while (at < text.size()) {
    const auto byte = static_cast<unsigned char>(text[at]);
    std::int32_t next = child(state, byte);
    while (next == kNone && state != 0) {
      state = states_[state].failure;
      if (state == kNone) return found;
      next = child(state, byte);
    }
    ++at;
    if (next == kNone) continue;  // at the root
    state = next;
    if (states_[state].match != kNone) found = {at - states_[state].match_length, at, states_[state].match};
  }
  return found;
}

}  // namespace frspec
