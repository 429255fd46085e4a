// A head policy as users write it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace frspec {

// One policy, or several whose rows are united: "ranked:8192+contextual:1024".
struct HeadSpec {
  enum class Kind {
    Full,        // every row the drafter has
    Ranked,      // the N most frequent tokens
    Learned,     // the rows of the drafter's own reduced head (d2t)
    Speculated,  // the N best of a low-rank sketch, anew for every state
    Contextual,  // N rows that follow the text
    Auto,        // whichever of them pays best, and the tree's shape with it
  };
  struct Part {
    Kind kind = Kind::Full;
    int size = 0;  // rows; 0 where the policy has none
  };
  std::vector<Part> parts = {Part{}};

  bool is_full() const { return parts[0].kind == Kind::Full; }
  bool is_auto() const { return parts[0].kind == Kind::Auto; }
  const Part* find(Kind kind) const;
  std::string text() const;
};

inline constexpr int kSpeculatedRows = 2048;  // 2602.13836, section 4
inline constexpr int kContextualRows = 2048;  // under 3k (2605.26444)

// Throws InvalidInput for anything but "auto", "full", "learned", "ranked:N", "speculated[:N]", "contextual[:N]", and
// unions of the last three, each kind once.
HeadSpec parse_head_spec(std::string_view text);

}  // namespace frspec
