// Growth within what a text's own options allow.
#pragma once

#include <algorithm>
#include <limits>
#include <span>

#include "tree/growth.h"

namespace frspec {

// What a text asks of its drafts: at most and at least so many nodes below the root (fewer than `least`: none), each of
// at least this probability.
struct DraftLimits {
  int most = -1;  // -1: as many as pay
  int least = 0;
  float chance = 0.0f;

  bool any() const { return most >= 0 || least > 0 || chance > 0.0f; }
  // Of so many nodes: how many are drafted.
  int of(int nodes) const {
    const int room = most >= 0 ? most : std::numeric_limits<int>::max();
    return nodes < std::min(least, room) ? 0 : std::min(nodes, room);
  }
  // The same where there is room for so many.
  DraftLimits within(int room) const { return {most >= 0 ? std::min(most, room) : room, least, chance}; }
};

// Trees that are not too large, and whose nodes are likely enough. Whether a tree is too small is known when all of it
// is there: parts of it may come from several drafters.
class LimitedGrowth final : public Growth {
 public:
  LimitedGrowth(Growth& inner, const DraftLimits& limits) : inner_(inner), limits_(limits) {}

  NodeNote judge(const NodeNote& parent, float score, int depth) const override {
    return inner_.judge(parent, score, depth);
  }
  NodeNote judge_repeated(const NodeNote& parent, int matched, int depth) const override {
    return inner_.judge_repeated(parent, matched, depth);
  }
  bool drafts_beside(std::span<const float> repeated) override { return inner_.drafts_beside(repeated); }
  int width(std::span<const NodeNote> frontier, std::span<const float> chances) override {
    // What lies below an unlikely node is no likelier.
    const auto likely = std::find_if(frontier.begin(), frontier.end(),
                                     [&](const NodeNote& node) { return node.chance < limits_.chance; });
    return inner_.width({frontier.begin(), likely}, chances);
  }
  int size(std::span<const float> chances) const override {
    const auto likely =
        std::find_if(chances.begin(), chances.end(), [&](float chance) { return chance < limits_.chance; });
    const std::span<const float> kept{chances.begin(), likely};
    const int size = std::min(inner_.size(kept), static_cast<int>(kept.size()));
    return limits_.most >= 0 ? std::min(size, limits_.most) : size;
  }

 private:
  Growth& inner_;
  DraftLimits limits_;
};

}  // namespace frspec
