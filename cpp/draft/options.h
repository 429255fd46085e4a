// What a user may choose of drafting when an engine is made.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

#include "backend/backend.h"
#include "gguf/mapped_file.h"
#include "model/rope_options.h"
#include "tree/draft_tree.h"

namespace frspec {

// Instead of a drafter's file: the nextn block in the target's own. (The same as naming the target's file.)
inline constexpr const char* kOwnDrafter = "mtp";

struct DraftOptions {
  std::optional<std::filesystem::path> drafter;  // GGUF, or kOwnDrafter; none: plain decoding
  std::optional<std::filesystem::path> ranks;    // a ranks file; none: those in the drafter
  std::optional<std::filesystem::path> sketch;   // a sketch of the head; none: the one in the drafter
  // A ranks file that is kept up to date with the texts that are written, and that ranked rows follow
  // (adaptive_ranks.h); made where it is not there. None: ranks do not change.
  std::optional<std::filesystem::path> adapt;
  FileAccess files;           // how the target, the drafter and the sketch come into memory
  std::string head = "auto";  // a head policy (vocab/head_spec.h)
  bool contextual = true;     // whether rows may follow the texts, which all texts share
  // Longest run of tokens that is looked up in the text; 0: none. Nothing: kNgram beside a drafter whose trees grow as
  // far as pays, where a repetition that is not likely enough costs nothing; else none.
  std::optional<int> ngram;
  std::string translate = "auto";  // a drafter of another vocabulary: "auto", "tli", "slem", "slrs"
  // The shape of trees; none: they grow as far as pays (engine/tuner.h), within kMostTree.
  std::optional<TreeShape> tree;
  RopeOptions rope;              // of the target, and of its drafter
  KvType kv_type = KvType::F16;  // of the target's and the drafter's cache
  std::size_t states = 0;        // so many states that the drafter's head meets are noted (Drafting::take_states)
};

// The largest trees where none is given: deep, for what is copied; rarely wide.
inline constexpr TreeShape kMostTree = {.depth = 15, .branch = 6, .size = 64};
inline constexpr int kNgram = 8;
inline int ngram_of(const DraftOptions& options) {
  return options.ngram.value_or(options.drafter && !options.tree ? kNgram : 0);
}
// What trees are made for.
inline TreeShape largest_tree(const DraftOptions& options) { return options.tree.value_or(kMostTree); }

}  // namespace frspec
