// The options of commands that draft.
#pragma once

#include "cli/arguments.h"
#include "engine/options.h"

namespace frspec {

inline void add_tree(Arguments& options, TreeChoice& tree) {
  options.text("--tree", "auto|D,B,N", tree.word,
               "the draft tree: as far as pays, or depth, branch, size; default: auto");
  options.number("--tree-depth", "D", tree.depth, "depth of a tree of fixed shape (EAGLE's d); default then: 5");
  options.number("--tree-branch", "K", tree.branch, "nodes expanded per level, and their children; default then: 10");
  options.number("--tree-size", "N", tree.size, "nodes that are verified at once; default then: 60");
}

}  // namespace frspec
