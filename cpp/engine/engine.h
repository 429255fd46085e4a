// The draft-verify loop. An Engine holds a target, a drafter and their caches, and writes sequences, several at a time.
//
// Threads: calls on one engine are taken one after the other (a lock); engines are independent of each other.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/forks.h"
#include "engine/batch.h"
#include "engine/iteration.h"
#include "engine/options.h"
#include "engine/parts.h"
#include "engine/pass_budget.h"
#include "engine/places.h"
#include "engine/prefill.h"
#include "engine/sequence.h"

namespace frspec {

// For measurements (lab.h). Nobody else uses the engine as long as it is held.
struct EngineAccess {
  std::unique_lock<OwnedMutex> lock;
  EngineParts& parts;
};

class Engine {
 public:
  // Reads everything. Throws InvalidInput, FileNotFound or OutOfMemory; nothing is left behind then.
  explicit Engine(const EngineOptions& options);
  ~Engine();

  // Begins a sequence after `prompt` (at least one token, room for one more in the context, ids of the vocabulary).
  std::unique_ptr<Sequence> begin(std::vector<TokenId> prompt, const GenerateOptions& options);
  // The tokens that one pass of the target gave: at least one, unless the sequence has ended. The first call reads the
  // prompt; another one reads again what others have displaced from the caches meanwhile, which changes no token.
  // Throws Error if an earlier step failed, or if a sequence that is verified by rejection sampling was displaced.
  std::span<const GeneratedToken> step(Sequence& sequence);
  // One pass for all of these sequences, which are to be the same, in the same order, from step to step: where places
  // or pages are short, those in front have them, and others wait, their tokens so far being read again later. What it
  // gave each of them is its fresh(), perhaps nothing: one that waits, or whose prompt is being read. Where one fails,
  // its error() is set, and the others go on. Sequences that are verified by rejection sampling go alone.
  void step(std::span<Sequence* const> sequences);

  // Another head policy for the drafter, as in EngineOptions::head.
  void set_head(const std::string& head);
  // Brings what was counted (EngineOptions::adapt) to its file, and here what others have written there. It is done now
  // and then when a sequence ends, and when the engine does. Throws as CountsFile::merge does, or InvalidInput where
  // ranks do not adapt; nothing that was counted is lost then.
  void save_ranks();

  EngineAccess access();
  // The same for those who use the caches: sequences that are running are displaced.
  EngineAccess take_over();

  const std::shared_ptr<const Tokenizer>& tokenizer() const { return parts_.tokenizer; }
  const ModelConfig& config() const { return parts_.target->config(); }
  int context() const { return parts_.context; }
  int ngram() const { return ngram_of(parts_.options); }
  std::string device() const { return parts_.backend->description(); }
  bool works_here() const { return mutex_.is_mine(); }  // whether this thread is inside one of its calls
  const Places& places() const { return places_; }      // how many there are, displaced sequences and pages
  // What it was expected to take; none where the device's memory is the host's.
  const std::optional<MemoryPlan>& memory_plan() const { return parts_.memory_plan; }
  const Tuner* tuner() const { return parts_.planner ? &parts_.planner->tuner() : nullptr; }  // null without a drafter

 private:
  std::unique_lock<OwnedMutex> lock();
  void check_verify_mode(const GenerateOptions& options) const;
  void prepare();
  void step_all(std::vector<Sequence*>& running);
  void advance(Sequence& sequence);

  EngineParts parts_;
  PassBudget budget_;
  Places places_;
  Prefill prefill_;
  Iteration iteration_;
  Batch batch_;
  bool calibrated_ = false;
  OwnedMutex mutex_{"LLM"};
};

}  // namespace frspec
