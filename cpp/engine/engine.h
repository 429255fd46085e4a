// The draft-verify loop. An Engine holds a target, a drafter and their caches, and writes sequences, one at a time.
//
// Threads: calls on one engine are taken one after the other (a lock); engines are independent of each other.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/forks.h"
#include "draft/drafting.h"
#include "engine/options.h"
#include "engine/planner.h"
#include "engine/sequence.h"
#include "engine/target_runner.h"
#include "gguf/gguf_file.h"
#include "model/causal_model.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

// What an engine is made of, for measurements (lab.h). Nobody else uses the engine as long as they are held.
struct EngineParts {
  std::unique_lock<OwnedMutex> lock;
  const EngineOptions& options;
  const Tokenizer& tokenizer;
  Backend& backend;
  TargetRunner& runner;
  Drafting* drafting;  // null without a drafter
};

class Engine {
 public:
  // Reads everything. Throws InvalidInput, FileNotFound or OutOfMemory; nothing is left behind then.
  explicit Engine(const EngineOptions& options);
  ~Engine();

  // Begins a sequence after `prompt` (at least one token, room for one more in the context, ids of the vocabulary). One
  // that was running before can go on no more.
  std::unique_ptr<Sequence> begin(std::vector<TokenId> prompt, const GenerateOptions& options);
  // The tokens that one pass of the target gave: at least one, unless the sequence has ended. The first call reads the
  // prompt. Throws Error if an earlier step failed or the engine began another sequence since.
  std::span<const GeneratedToken> step(Sequence& sequence);

  // Another head policy for the drafter, as in EngineOptions::head. A sequence that is running can go on no more.
  void set_head(const std::string& head);
  // Brings what was counted (EngineOptions::adapt) to its file, and here what others have written there. It is done now
  // and then when a sequence ends, and when the engine does. Throws as CountsFile::merge does, or InvalidInput where
  // ranks do not adapt; nothing that was counted is lost then.
  void save_ranks();

  EngineParts parts();
  // The same for those who use the caches: a sequence that is running can go on no more.
  EngineParts take_over();

  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  const ModelConfig& config() const { return target_->config(); }
  int context() const { return context_; }
  std::string device() const { return backend_->description(); }
  bool works_here() const { return mutex_.is_mine(); }  // whether this thread is inside one of its calls
  // What it was expected to take; none where the device's memory is the host's.
  const std::optional<MemoryPlan>& memory_plan() const { return memory_plan_; }
  const Tuner* tuner() const { return planner_ ? &planner_->tuner() : nullptr; }  // null without a drafter

 private:
  // A step that the device was given to do.
  struct Step {
    Tuner::Plan plan;
    int told = 0;  // rows that the drafter was told of before
    const DraftTree* tree = nullptr;
    const VerdictView* verdict = nullptr;
    bool drafted = false;
    int slot = 0;  // where its verdict is posted
  };
  // What the engine keeps of the sequence that is running.
  struct Place {
    std::uint64_t owner = 0;  // Sequence::id; 0: the caches are nobody's
    bool read = false;        // whether its prompt is in the caches
    bool counts = true;       // for ranks that adapt: somebody wanted it
    Sampler sampler;
    RejectionDraw rejection;
    DraftState draft;
    // What the caches hold: the first `committed` of these tokens, which are those of the sequence.
    std::vector<TokenId> text;
    std::int32_t committed = 0;
    std::int32_t wanted = 0;  // tokens that the sequence has: the last step may have given more
    Reuse reuse;
    std::optional<Step> ahead;                // the step behind the one that is running, where it was begun already
    Tuner::Step tuned;                        // of the step that is running
    std::vector<StepTrace::Watched> watched;  // likewise
  };

  // engine.cpp: loading, and what stands around the steps
  void plan_memory(ModelLimits& limits, const ModelTaps& taps);
  void make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes);
  std::unique_lock<OwnedMutex> lock();
  void check_verify_mode(const GenerateOptions& options) const;
  std::vector<TokenId> held_tokens(const GenerateOptions& options) const;
  void start(Sequence& sequence);
  void close_step(Sequence& sequence);
  void leave(std::span<const TokenId> next_prompt);
  void calibrate();  // calibration.cpp

  // iteration.cpp: one step; the caller holds the lock
  void advance(Sequence& sequence);
  bool read_prompt(Sequence& sequence);  // false: abandoned
  void append_first(Sequence& sequence, int rows);
  void begin_drafting(Sequence& sequence);
  void iterate(Sequence& sequence);
  Step begin_step(Sequence& sequence, int slot, const Step* unseen);
  void draft(const Sequence& sequence, Step& step, const Step* unseen);
  const DraftTree* propose(const Tuner::Plan& plan, Growth* growth);
  const VerdictView& verify(const Sequence& sequence, const Step& step);
  void learn(Sequence& sequence, const Step& step, const Verdict& verdict);
  StepTrace trace_of(const Sequence& sequence, const Step& step, const Verdict& verdict);
  void accept(const Step& step, const Verdict& verdict);
  // steps_ahead.cpp
  Step next_step(Sequence& sequence);
  bool may_go_ahead(const Sequence& sequence, const Step& step) const;

  EngineOptions options_;
  std::shared_ptr<const GgufFile> file_;
  std::shared_ptr<const GgufFile> drafter_file_;  // null without a drafter
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Backend> backend_;
  std::optional<MemoryPlan> memory_plan_;
  bool brings_drafter_ = false;  // it is the target's own file
  int context_ = 0;
  int batch_ = 0;
  int max_depth_ = 0;   // of a tree
  double spare_ = 0.0;  // room for what ended sequences leave in the caches, as a share of a whole context's
  std::unique_ptr<CausalModel> target_;
  std::unique_ptr<TargetRunner> runner_;
  std::shared_ptr<RankKeeper> ranks_;   // null: ranks do not change
  std::unique_ptr<Drafting> drafting_;  // null without a drafter
  std::unique_ptr<Planner> planner_;    // likewise
  bool calibrated_ = false;
  Place place_;
  OwnedMutex mutex_{"LLM"};
};

}  // namespace frspec
