// What a generation cost and what drafting gained.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace frspec {

// What a drafter's tuner has found best so far (engine/tuner.h).
struct Tuning {
  std::string head;
  std::string translation;           // "tli", "slem"; empty: there is no choice
  bool drafts = false;               // whether drafting beats plain decoding
  double nodes = 0.0, levels = 0.0;  // of its trees, on average
  double gain = 0.0;                 // drafts that a drafted step is expected to have accepted
  double cost = 0.0;                 // of drafting and verifying them, in tokens that plain steps had given meanwhile
  double tokens_per_second = 0.0;    // expected of the way it goes now; 0: nothing is known yet
  double plain_tokens_per_second = 0.0;  // expected of plain decoding
  std::string summary;                   // what was chosen, and why, in a sentence
};

struct Stats {
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;     // of the prompt: those that an earlier text had left in the cache
  std::int64_t read_tokens = 0;       // of what is read before the text goes on: those that are in the cache so far
  std::uint64_t seed = 0;             // of the sampling
  std::int64_t generated_tokens = 0;  // as handed out: an end-of-generation token is not among them
  std::int64_t steps = 0;             // passes of the target after the prompt
  std::int64_t step_tokens = 0;  // tokens that these passes gave (an end-of-generation token counts, what follows not)
  std::int64_t drafted_steps = 0;   // of the steps: with drafts in the tree
  std::int64_t drafted_tokens = 0;  // nodes of their trees, the roots not among them
  std::int64_t forced_tokens = 0;   // drafts that were the grammar's own
  std::string drafter_error;        // why the drafter gave up, and the text went on without it; empty: it did not
  std::optional<Tuning> tuning;     // when the text ended, where there is a drafter
  std::string ranks;                // where those of the drafter's head came from (TokenRanks::source); empty: no ranks
  std::string adapt_error;  // why the ranks could not be saved when the text ended; they are kept for the next time
  std::int64_t adapted_rows = 0;  // rows of the drafter's heads that changed before the text began
  double adapt_seconds = 0.0;     // that this took, at the beginning of prefill_seconds
  double prefill_seconds = 0.0;   // prompt through target and drafter, and the first token
  double draft_seconds = 0.0;
  double verify_seconds = 0.0;
  double total_seconds = 0.0;  // all of the above and what lies between

  // Tokens per pass: accepted drafts + 1 (EAGLE's tau). 0 where there was no pass.
  double accepted_length() const {
    return steps > 0 ? static_cast<double>(step_tokens) / static_cast<double>(steps) : 0.0;
  }
  // Generated tokens over the time after the prompt.
  double tokens_per_second() const {
    const double seconds = total_seconds - prefill_seconds;
    return seconds > 0.0 ? static_cast<double>(step_tokens) / seconds : 0.0;
  }
};

}  // namespace frspec
