// The drafter that a user's options ask for.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "draft/drafter.h"
#include "draft/options.h"
#include "gguf/gguf_file.h"
#include "model/causal_model.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

class AdaptiveRanks;
class HeadClock;
struct StateRecord;

// Without a drafter there is room for so many tokens that a grammar forces.
inline constexpr int kForcedRun = 16;
// How large the trees may be that are drafted with these options: nodes, the root included, and levels below it.
struct TreeBounds {
  int size = 1;
  int depth = 0;
};
TreeBounds tree_bounds(const DraftOptions& options);

struct DrafterParts {
  Backend& backend;
  const CausalModel& target;
  std::shared_ptr<const Tokenizer> tokenizer;  // the target's
  std::shared_ptr<const GgufFile> file;        // the drafter's; null: n-grams alone
  int context = 0;                             // tokens of a text, at most
  int batch = 0;
  double spare = 0.0;  // room for further texts and what ended ones leave in its own cache, as a share of one context's
  int places = 1;      // texts at once
  std::function<void(std::size_t)> on_bytes = {};     // as WeightLoader's
  std::shared_ptr<AdaptiveRanks> adaptive = nullptr;  // not null: ranked rows follow them
  std::shared_ptr<StateRecord> states = nullptr;      // not null: the states that the head meets are noted there
  HeadClock* clock = nullptr;                         // not null: of the drafter's head
  std::string* ranks_source = nullptr;                // set to where the ranks of the head come from, if it uses any
};

// The layers of the target whose inputs a drafter continues (ModelTaps::joined); none: it continues the states after
// the final norm, or none at all. Throws InvalidInput where the target has no such layers.
std::vector<int> drafter_taps(const GgufFile& drafter, const ModelConfig& target);

// Slots behind the text that a drafter needs in the target's pages, where it keeps something of its own; none: 0.
int drafter_slots(const DraftOptions& options, const GgufFile& drafter);
// What it keeps in a slot there it has made of one token ahead, too (PageTrie).
inline constexpr int kDrafterAhead = 1;

// How many texts can be drafted at once, of so many that are wanted. SLRS follows one.
int most_places(const DraftOptions& options, int wanted);

// Throws InvalidInput for options that contradict each other, whatever the files hold.
void check_drafter_options(const DraftOptions& options);
// Which of several heads, or which two of them united, use the files of ranks and of a sketch that the options name: a
// drafter that is loaded with it can be given each of them, and a file that none of them uses is an error.
std::string head_for_files(const std::vector<std::string>& heads, const DraftOptions& options);
// A drafter with the head that `head` names (vocab/head_spec.h). Throws InvalidInput for a file of an architecture
// that drafts nothing, or one that does not fit the target.
std::unique_ptr<Drafter> make_drafter(const DraftOptions& options, const std::string& head, const DrafterParts& parts);

}  // namespace frspec
