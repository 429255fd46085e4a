// The options of commands that draft.
#pragma once

#include "cli/arguments.h"
#include "engine/options.h"

namespace frspec {

// `otherwise`: what is drafted without them.
inline void add_tree(Arguments& options, TreeChoice& tree, const std::string& otherwise = "auto, as far as pays") {
  options.text("--tree", "auto|D,B,N", tree.word, "depth, branch, size of the tree; default: " + otherwise);
  options.number("--tree-depth", "D", tree.depth, "depth of a tree of fixed shape; default then: 5");
  options.number("--tree-branch", "K", tree.branch, "nodes expanded per level; default then: 10");
  options.number("--tree-size", "N", tree.size, "nodes verified at once; default then: 60");
}

}  // namespace frspec
