// The draft-verify loop. An Engine holds a target, a drafter and their caches, and writes sequences, several at a time.
//
// Threads: calls on one engine are taken one after the other (a lock); engines are independent of each other.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/chaos.h"
#include "base/forks.h"
#include "draft/drafting.h"
#include "engine/costs.h"
#include "engine/guided_trees.h"
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
  // Sequences that have a place in the caches at once.
  int parallel() const { return static_cast<int>(places_.size()); }
  // How often one was displaced to make room for others so far.
  std::int64_t displaced() const { return displaced_.load(); }
  // Pages of the target's cache behind the last step.
  struct Pages {
    int all = 0;
    int held = 0;  // by sequences
    int kept = 0;  // that ended ones have left for others, or running ones share
  };
  Pages pages() const { return {all_pages_, held_pages_.load(), kept_pages_.load()}; }

  // Another head policy for the drafter, as in EngineOptions::head.
  void set_head(const std::string& head);
  // Brings what was counted (EngineOptions::adapt) to its file, and here what others have written there. It is done now
  // and then when a sequence ends, and when the engine does. Throws as CountsFile::merge does, or InvalidInput where
  // ranks do not adapt; nothing that was counted is lost then.
  void save_ranks();

  EngineParts parts();
  // The same for those who use the caches: sequences that are running are displaced.
  EngineParts take_over();

  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  const ModelConfig& config() const { return target_->config(); }
  int context() const { return context_; }
  int ngram() const { return ngram_of(options_); }
  std::string device() const { return backend_->description(); }
  bool works_here() const { return mutex_.is_mine(); }  // whether this thread is inside one of its calls
  // What it was expected to take; none where the device's memory is the host's.
  const std::optional<MemoryPlan>& memory_plan() const { return memory_plan_; }
  const Tuner* tuner() const { return planner_ ? &planner_->tuner() : nullptr; }  // null without a drafter

 private:
  // A step that the device was given to do.
  struct Step {
    DraftLimits limits;  // of its tree
    Tuner::Plan plan;
    Tuner::Company company;
    const Tuner::Growing* growing = nullptr;  // of its tree, where that grew as far as pays
    bool told_of_pass = false;                // whether another text's step tells what the pass took
    int piece = 0;                            // rows that the drafter may read before, beside those of a step
    int told = 0;                             // rows that it did
    const DraftTree* tree = nullptr;
    const VerdictView* verdict = nullptr;
    bool drafted = false;        // by the drafter
    std::vector<TokenId> run{};  // that the grammar forces
    bool forced = false;         // whether it is the tree
    bool is_first = false;       // its root is the last token of what is read
    int slot = 0;                // where its verdict is posted
    Tensor states, features;     // the target's of the tree's nodes: hidden() and features()
    double told_seconds = 0.0, grown_seconds = 0.0, target_seconds = 0.0, head_seconds = 0.0;
  };
  // What the engine keeps of a sequence that is running.
  struct Place {
    Place(int which, DraftTree&& room) : number(which), tree(std::move(room)) {}

    int number;
    DraftTree tree;                  // of a step with others
    std::uint64_t owner = 0;         // Sequence::id; 0: it is nobody's
    std::weak_ptr<const void> life;  // the owner's
    bool ended = false;              // the owner needs it no more
    bool kept = false;               // for the step that is running
    std::uint64_t used = 0;          // when
    bool begun = false;              // whether the text is what its caches are about
    bool read = false;               // whether they have all of it
    Sampler sampler;
    std::unique_ptr<GuidedTrees> guided;  // from the first sequence here on that has a grammar
    RejectionDraw rejection;
    DraftState draft;
    // What the caches hold: the first `committed` of these tokens, which are those of the sequence.
    std::vector<TokenId> text;
    std::int32_t committed = 0;
    std::int32_t wanted = 0;  // tokens that the sequence has: the last step may have given more
    Reuse reuse;
    std::optional<Step> ahead;                // the step behind the one that is running, where it was begun already
    std::array<Tuner::Growing, 2> growing;    // of its steps, by their slots
    std::vector<StepTrace::Watched> watched;  // of the step that is running

    bool is_idle() const { return ended || life.expired(); }
    // Committed tokens that are of no use to others: all but the last one that the sequence has, as if no more had been
    // accepted, since a drafter's pair there depends on the next one.
    std::int32_t unwanted() const { return committed - std::clamp(wanted - 1, 0, committed); }
  };

  // engine.cpp: loading, and what stands around the steps
  void plan_memory(ModelLimits& limits, const ModelTaps& taps);
  void make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes);
  std::unique_lock<OwnedMutex> lock();
  void check_verify_mode(const GenerateOptions& options) const;
  std::vector<TokenId> held_tokens(const GenerateOptions& options) const;
  Sampler sampler_of(const Sequence& sequence, const std::int32_t* history) const;
  void close_step(Sequence& sequence);
  void note_pages();
  void calibrate();  // calibration.cpp
  void disturb();    // disturbing.cpp

  // places.cpp
  void use(Place& place);
  bool enter(Sequence& sequence);
  void end(const Sequence& sequence);
  bool hold(std::int64_t tokens);
  Place* displaceable(const Place* own);
  void leave_ahead();
  Place* place_of(const Sequence& sequence);  // null: it has none
  void displace(Place& place);
  void leave(Place& place, std::span<const TokenId> next_prompt);
  void drop(Place& place);
  void leave_all();

  // iteration.cpp: one step; the caller holds the lock
  void advance(Sequence& sequence);
  void begin_reading(Sequence& sequence);
  bool read_prompt(Sequence& sequence);  // false: abandoned
  void append_first(Sequence& sequence, int rows);
  void begin_drafting(Sequence& sequence);
  void iterate(Sequence& sequence);
  Step begin_step(Sequence& sequence, int slot, const Step* unseen);
  void draft(const Sequence& sequence, Step& step, const Step* unseen);
  void ask_drafter(const Sequence& sequence, Step& step, const Step* unseen);
  Tuner::Outlook outlook(const Sequence& sequence, const Step& step);
  const DraftTree* propose(Step& step, Growth* growth);
  const DraftTree* cut(const DraftTree& tree, const DraftLimits& limits);
  const VerdictView& verify(const Sequence& sequence, const Step& step);
  void take(Sequence& sequence, const Step& step, const Verdict& verdict);
  void learn(Sequence& sequence, const Step& step, const Verdict& verdict);
  void learn_costs(Sequence& sequence, const Step& step, const Verdict& verdict);
  // Whether the planner learns what this step took.
  static bool tells_planner(const Sequence& sequence, const Step& step);
  void note_times(Step& step);
  void close_times(Sequence& sequence, bool reads, double seconds) const;
  std::size_t most_tokens(const Sequence& sequence) const;
  bool is_alone() const;
  StepTrace trace_of(const Sequence& sequence, const Step& step, const Verdict& verdict);
  void accept(const Step& step, const Verdict& verdict);
  // guided_steps.cpp
  bool draft_forced(const Sequence& sequence, Step& step);
  void guide(const Sequence& sequence, Step& step);
  // steps_ahead.cpp
  Step next_step(Sequence& sequence);
  bool may_go_ahead(const Sequence& sequence, const Step& step) const;

  // together.cpp: one step of several
  struct Member;
  template <class Use>
  bool guard(Sequence& sequence, Use&& use);
  void give_up(Sequence& sequence, std::exception_ptr error);
  void step_all(std::span<Sequence* const> sequences);
  void step_together(std::span<Sequence* const> sequences);
  void gather(std::span<Sequence* const> sequences, std::vector<Member>& members);
  void note_pass(int rows, int written, double seconds);
  int rows_beside(int writers) const;
  void give_chunks(std::vector<Member>& members);
  int drafter_piece() const;
  static bool tells_planner(const Member& member);
  void draft(std::vector<Member>& members);
  void draft(Member& member, int room, int piece);
  void run(std::vector<Member>& members);
  void keep_border(const Member& member);
  void take(Member& member);

  EngineOptions options_;
  std::shared_ptr<const GgufFile> file_;
  std::shared_ptr<const GgufFile> drafter_file_;  // null without a drafter
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Backend> backend_;
  std::optional<MemoryPlan> memory_plan_;
  bool brings_drafter_ = false;  // it is the target's own file
  int context_ = 0;
  int batch_ = 0;
  int max_size_ = 0;  // of a tree
  int max_depth_ = 0;
  double spare_ = 0.0;  // room for what ended sequences leave in the caches, as a share of a whole context's
  std::unique_ptr<CausalModel> target_;
  std::unique_ptr<TargetRunner> runner_;
  std::shared_ptr<RankKeeper> ranks_;                   // null: ranks do not change
  std::unique_ptr<Drafting> drafting_;                  // null without a drafter
  std::unique_ptr<Planner> planner_;                    // likewise
  RowCosts passes_{0.0, 0.1, false};                    // of all kinds
  int rows_written_ = 0;                                // of the latest pass, without those of prompts
  std::vector<std::int32_t> cut_tokens_, cut_parents_;  // of a tree that is cut
  bool calibrated_ = false;
  std::vector<Place> places_;
  Place* place_ = nullptr;            // the one in use
  std::vector<std::uint64_t> order_;  // of the sequences of the step that is running, the first ones served first
  std::uint64_t clock_ = 0;           // of Place::used
  bool counts_ = true;                // for ranks that adapt: somebody wants what is written
  bool taken_over_ = false;           // whether the place in use has all pages
  std::atomic<std::int64_t> displaced_{0};
  int all_pages_ = 0;
  std::atomic<int> held_pages_{0}, kept_pages_{0};
  std::unique_ptr<Chaos> chaos_;  // null but in tests
  // Sequences that found no pages, and how often places had been given up by then: until that has changed, they need
  // not ask again.
  std::unordered_map<std::uint64_t, std::uint64_t> refused_;
  std::uint64_t given_up_ = 0;
  Tuner::Step tuned_;  // of the step that is told of
  OwnedMutex mutex_{"LLM"};
};

// What fails ends this sequence alone.
template <class Use>
bool Engine::guard(Sequence& sequence, Use&& use) {
  try {
    use();
    return true;
  } catch (...) {
    give_up(sequence, std::current_exception());
    return false;
  }
}

}  // namespace frspec
