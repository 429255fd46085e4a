// Finds the next of many fixed texts (special tokens) in a text: leftmost match, the longest of those, in linear time
// whatever the texts are (Aho and Corasick, "Efficient string matching", 1975, with failure links cut for leftmost
// matches).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace frspec {

class TextMatcher {
 public:
  struct Pattern {
    std::string_view text;  // not empty; read by the constructor only
    std::int32_t id;
  };
  struct Match {
    std::size_t begin;
    std::size_t end;
    std::int32_t id;  // -1: none
  };

  TextMatcher() : TextMatcher(std::span<const Pattern>()) {}
  explicit TextMatcher(std::span<const Pattern> patterns);

  bool empty() const { return states_.size() == 1; }

  // The first match in text[from, end).
  Match find(std::string_view text, std::size_t from) const;

 private:
  static constexpr std::int32_t kNone = -1;

  // A state is a beginning of some pattern. State 0 is the root. Children are a list: first_child, then next_sibling.
  struct State {
    std::int32_t first_child = kNone;
    std::int32_t next_sibling = kNone;
    std::int32_t failure = 0;    // the longest end of this that is a state; kNone: a match begins before it
    std::int32_t match = kNone;  // id of the pattern that ends here
    std::uint32_t match_length = 0;
    std::uint32_t depth = 0;
    unsigned char byte = 0;
    bool within_match = false;  // this or a beginning of it is a whole pattern
  };

  std::int32_t child(std::int32_t state, unsigned char byte) const;
  std::int32_t add_child(std::int32_t state, unsigned char byte);
  void link_failures();

  std::vector<State> states_;
  std::array<std::int32_t, 256> root_children_;
};

}  // namespace frspec
