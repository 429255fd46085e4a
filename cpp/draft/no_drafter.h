// Plain decoding is speculative decoding with a tree that is only its root.
#pragma once

#include "draft/drafter.h"

namespace frspec {

class NoDrafter final : public Drafter {
 public:
  explicit NoDrafter(Backend& backend)
      : backend_(backend), tree_(backend, TreeShape{.depth = 0, .branch = 1, .size = 1}) {}

  void begin(const TextRules&) override {}
  void accept(const Committed&) override {}
  const DraftTree& propose(const std::int32_t* root, Growth*) override {
    backend_.tree_select(tree_.view(), tree_.pool(), root);
    return tree_;
  }

 private:
  Backend& backend_;
  DraftTree tree_;
};

}  // namespace frspec
