// What a step of a text did and what it cost, where GenerateOptions::trace asks for it.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "tokenizer/tokenizer.h"
#include "tree/draft_tree.h"

namespace frspec {

// A pass of the target after the prompt's.
struct StepTrace {
  std::vector<TokenId> tokens;   // that it gave to the text: accepted drafts, then the target's own
  int accepted = 0;              // drafts; where the text ended with them, it may have taken fewer
  int nodes = 1;                 // of the tree, the root included
  std::vector<TokenId> offered;  // drafts after the last accepted node: the target said otherwise. Favourite first
  // With DraftMode::Watch: a wide tree that was not verified, behind the root. Score: log-probability given the parent.
  struct Watched {
    TokenId token;
    int parent;  // 0: the root
    float score;
  };
  std::vector<Watched> watched;
  std::optional<bool> in_subset;   // whether the draft head could have offered what it said; nothing: not known
  double transformer_seconds = 0;  // drafting, and telling the drafter what was accepted, without the head
  double head_seconds = 0;         // the draft head
  double verify_seconds = 0;       // the target's pass and the verdict
  double total_seconds = 0;        // the whole step
};

// Grows wide trees and keeps all of them.
class WideGrowth final : public Growth {
 public:
  NodeNote judge(const NodeNote& parent, float score, int) const override { return {parent.chance * std::exp(score)}; }
  NodeNote judge_repeated(const NodeNote&, int, int) const override { return {0.0f}; }
  bool drafts_beside(std::span<const float>) override { return true; }
  int width(std::span<const NodeNote> frontier, std::span<const float>) override;
  int size(std::span<const float> chances) const override { return static_cast<int>(chances.size()); }

 private:
  int level_ = 0;
};
std::vector<StepTrace::Watched> watched_nodes(Backend& backend, const DraftTree& tree);

// The tokens of a node's children. They stand in the tree as the drafter ranks them.
std::vector<TokenId> children_of(Backend& backend, const TreeView& tree, std::int32_t node);

}  // namespace frspec
