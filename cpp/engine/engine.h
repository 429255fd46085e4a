// The draft-verify loop. An Engine holds a target, a drafter and their caches; a Generation is one text being written.
//
// Threads: calls on one engine are taken one after the other (a lock); engines are independent of each other.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/forks.h"
#include "draft/drafter.h"
#include "engine/make_drafter.h"
#include "engine/options.h"
#include "engine/stats.h"
#include "engine/step_trace.h"
#include "engine/stop_text.h"
#include "engine/tuner.h"
#include "engine/tuning_file.h"
#include "gguf/gguf_file.h"
#include "model/causal_model.h"
#include "tokenizer/tokenizer.h"
#include "verify/verifier.h"
#include "vocab/adaptive_ranks.h"
#include "vocab/timed_head.h"

namespace frspec {

enum class FinishReason {
  None,       // still running
  Stop,       // an end-of-generation token, a stop token or a stop string
  Length,     // max_tokens, or the context is full
  Cancelled,  // Generation::cancel()
};
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled"; "" while running

// A token of the text, whether a draft had foreseen it, and what may be shown of the text since the token before: whole
// characters, and nothing that might become part of a stop string.
struct GeneratedToken {
  TokenId id;
  bool drafted;
  std::string text;
};

// Log-probabilities under the target's own distribution, at temperature 1 and before the sampler chain.
struct TokenLogprobs {
  float chosen = 0.0f;                          // of the token itself
  std::vector<std::pair<TokenId, float>> best;  // of the most probable tokens, best first
};

class Engine;

// Times that are noted of a step, and of all that are under way: one at each post, and one in a loop. Those behind are
// the draft heads'.
inline constexpr int kStepTimes = 4, kEngineTimes = (kPosts + 1) * kStepTimes;

// A step that the device was given to do.
struct EngineStep {
  Tuner::Plan plan;
  int told = 0;  // rows that the drafter was told of before
  const DraftTree* tree = nullptr;
  const VerdictView* verdict = nullptr;
  bool drafted = false;
  int slot = 0;                                    // where its verdict is posted; kPosts: nowhere, it is in a loop
  bool ahead = false;                              // it began before the host had seen the last verdict
  bool in_loop() const { return slot == kPosts; }  // of the device's: it stands for each of the turns
};

// One text. It must not outlive its engine.
class Generation {
 public:
  // The tokens that one pass of the target gave: at least one, unless the text has ended. The first call reads the
  // prompt. Throws Error if an earlier step failed or the engine began another text since.
  std::span<const GeneratedToken> step();
  // Ends the text, from any thread: the step that is running is the last one. A prompt that is being read is abandoned
  // between two layers.
  void cancel() { cancelled_.store(true); }
  // Asked between the layers of a prompt; returning false abandons the prompt, and step() then gives nothing.
  void on_progress(std::function<bool()> keep_going) { keep_going_ = std::move(keep_going); }

  FinishReason finish_reason() const { return finish_; }
  const Stats& stats() const { return stats_; }
  // What was still held back when the text ended: it follows the last token's.
  const std::string& closing_text() const { return closing_text_; }
  // Of every token so far, where GenerateOptions::logprobs asked for them.
  std::span<const TokenLogprobs> logprobs() const { return logprobs_; }
  // Every step so far, where GenerateOptions::trace asked for them: the passes after the prompt's own, which gave the
  // text's first token.
  std::span<const StepTrace> trace() const { return trace_; }

 private:
  friend class Engine;
  Generation(Engine& engine, std::vector<TokenId> prompt, const GenerateOptions& options);

  std::span<const GeneratedToken> hand_out();  // what a step gave, and what is told of a text that it ended
  void take(std::span<const TokenId> tokens);  // into fresh_, up to the end of the text
  void take_one(TokenId token, bool drafted);
  bool ends_text(TokenId token) const;
  bool goes_on() const { return !cancelled_.load() && (!keep_going_ || keep_going_()); }
  void finish(FinishReason reason);

  Engine& engine_;
  std::uint64_t ticket_;         // the engine's when its caches were last left whole for this text
  std::vector<TokenId> tokens_;  // of the prompt and of the text
  std::size_t prompt_size_;
  GenerateOptions options_;
  Sampler sampler_;
  StreamDecoder decoder_;
  StopText stop_text_;
  std::function<bool()> keep_going_;
  std::atomic<bool> cancelled_{false};
  std::vector<GeneratedToken> fresh_;  // what the last step gave
  // What the drafter has not been told yet, because it was not asked for drafts.
  struct Lag {
    int rows = 0;                                   // states in Engine::lag_features_
    std::vector<TokenId> tokens, next, candidates;  // as Committed's
  };
  Lag lag_;
  Tuner::Step tuned_;                // the step that is running
  std::optional<EngineStep> ahead_;  // the one behind it, where it was begun already
  int turns_ = 0;                    // of a loop that ahead_ is in: those that the host has not seen
  RejectionDraw rejection_;
  std::vector<TokenLogprobs> logprobs_;
  std::vector<StepTrace> trace_;
  std::vector<StepTrace::Watched> watched_;  // of the step that is running
  Buffer best_memory_;                       // ids, log-probabilities, and the chosen token's
  std::string closing_text_;
  bool counts_ = true;  // for ranks that adapt: somebody wanted it
  bool started_ = false;
  bool ended_by_token_ = false;  // one that the pass gave, but that is not part of the text
  FinishReason finish_ = FinishReason::None;
  Stats stats_;
};

class Engine {
 public:
  // Reads everything. Throws InvalidInput, FileNotFound or OutOfMemory; nothing is left behind then.
  explicit Engine(const EngineOptions& options);
  ~Engine();

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::shared_ptr<const Tokenizer> shared_tokenizer() const { return tokenizer_; }
  const ModelConfig& config() const { return target_->config(); }
  int context() const { return context_; }
  std::string device() const { return backend_->description(); }
  bool has_drafter() const { return drafter_ != nullptr; }
  bool works_here() const { return mutex_.is_mine(); }  // whether this thread is inside one of its calls
  // What it was expected to take; none where the device's memory is the host's.
  const std::optional<MemoryPlan>& memory_plan() const { return plan_; }
  const Tuner* tuner() const { return tuner_.get(); }  // null without a drafter
  // Another head policy for the drafter, as in EngineOptions::head. A running generation can go on no more.
  void set_head(const std::string& head);

  // Brings what was counted (EngineOptions::adapt) to its file, and here what others have written there. It is done now
  // and then when a text ends, and when the engine does. Throws as CountsFile::merge does, or InvalidInput where ranks
  // do not adapt; nothing that was counted is lost then.
  void save_ranks();

  // The states that were noted (EngineOptions::states) since the last call.
  StateRecord take_states();

  // The parts, for measurements (bench.h).
  Backend& backend() { return *backend_; }
  CausalModel& target() { return *target_; }
  Drafter* drafter() { return drafter_.get(); }
  Verifier& verifier() { return *verifier_; }
  // One pass behind the first `prefix` cached tokens, whatever they are: a prompt with its next token, or a tree with
  // its verdict. And one tree of the drafter, after a text's first step. They end a running generation.
  void time_prompt(std::int32_t prefix, std::span<const TokenId> tokens);
  void time_tree(std::int32_t prefix, std::span<const TokenId> tokens, std::span<const std::int32_t> parents);
  void time_draft();

  // Begins a text after `prompt` (at least one token, room for one more in the context, ids of the vocabulary).
  // A generation that was running before can go on no more.
  std::unique_ptr<Generation> begin(std::vector<TokenId> prompt, const GenerateOptions& options);

  // Logits after each token, (tokens.size(), V), and the hidden states that were tapped (taps, tokens, dim). With
  // `best` > 0, instead of logits the most probable tokens, best first, and their log-probabilities: (tokens, best).
  // Ends a running generation.
  struct Forward {
    std::vector<float> logits;
    std::vector<TokenId> best;
    std::vector<float> log_probs;
    std::vector<std::vector<float>> taps;
  };
  Forward forward(std::span<const TokenId> tokens, int best = 0);
  // Logits after each node of a tree whose root follows `prefix`: (nodes, V). Ends a running generation.
  std::vector<float> forward_tree(std::span<const TokenId> prefix, std::span<const TokenId> tokens,
                                  std::span<const std::int32_t> parents);

 private:
  friend class Generation;
  using Step = EngineStep;

  void check_tokens(std::span<const TokenId> tokens) const;
  void place(ModelLimits& limits, const ModelTaps& taps, const ModelConfig& config);
  void reset();
  void make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes);
  Tuner::Plan plan_step(const Generation& text);
  void calibrate();
  Tuning tuning() const;
  void keep_tuning();  // for the next process
  void note_accepted(Generation& text, const DraftTree& tree, const Verdict& verdict);
  // One pass over at most batch_ tokens behind the prefix. False: abandoned, because `keep_going` said so.
  bool run_chunk(std::span<const TokenId> tokens, const std::function<bool()>& keep_going = {});
  void add_best(Forward& result, int rows, std::size_t first, int best);
  void set_count(std::int32_t count);
  bool read_prompt(Generation& text);  // false: abandoned
  // The log-probabilities of `tokens` (device, hidden.rows) after the given states, for as many as text.take() took.
  void add_logprobs(Generation& text, Tensor hidden, const std::int32_t* tokens);
  std::vector<TokenId> held_tokens(const GenerateOptions& options) const;
  void check_verify_mode(const GenerateOptions& options) const;
  TokenId first_token(Generation& text, int rows);  // after the last of `rows` rows of the prompt
  void run_step(Generation& text);
  Step begin_step(Generation& text, int slot, const Step* before);
  int steps_ahead(const Generation& text, const Step& step, int unseen) const;
  void go_ahead(Generation& text, const Step& step);
  Step next_step(Generation& text);
  void tell_on_device(Generation& text, const Step& before);
  void trace_step(Generation& text, const Step& step, const Verdict& verdict, double draft_seconds,
                  double verify_seconds);
  template <class Use>
  void with_drafter(Generation& text, Use&& use);
  void tell_drafter(Generation& text);
  void note_written(Generation& text);  // what the last step gave, for ranks that adapt
  // The accepted nodes of the tree that the target has just processed. `tokens`: theirs, and the one behind them.
  void remember_for_drafter(Generation& text, const TreeView& tree, const VerdictView& verdict,
                            std::span<const TokenId> tokens);
  int lag_room() const { return std::max(batch_, max_depth_ + 1); }

  EngineOptions options_;
  std::shared_ptr<const GgufFile> file_;
  std::shared_ptr<const GgufFile> drafter_file_;  // null without a drafter
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Backend> host_backend_;  // of the layers that the device has no room for; null: none
  std::optional<MemoryPlan> plan_;
  int context_ = 0;
  int batch_ = 0;
  int taps_ = 0;
  int max_depth_ = 0;  // of a tree
  std::unique_ptr<CausalModel> target_;
  std::shared_ptr<AdaptiveRanks> adaptive_;  // null: ranks do not change
  std::vector<TokenId> written_;             // scratch
  std::unique_ptr<HeadClock> head_clock_;
  std::unique_ptr<Drafter> drafter_;  // null without one
  std::string ranks_source_;          // of the ranks that its head's rows follow, if they follow any
  std::unique_ptr<Tuner> tuner_;      // null without a drafter
  std::unique_ptr<TuningFile> tuning_file_;
  std::chrono::steady_clock::time_point tuning_kept_ = {};
  std::unique_ptr<Drafter> no_drafter_;
  std::unique_ptr<Verifier> verifier_;
  Buffer ids_;           // (batch) tokens of a chunk
  Buffer next_ids_;      // (batch) tokens that follow them
  Buffer root_;          // (1) the text's last token
  Buffer count_;         // (1) rows of a chunk
  Buffer path_;          // (max_depth + 1, twice, and 1) of a verdict that the host has not seen
  Buffer last_depth_;    // (1) -1: the row of the prefix's last token
  Buffer history_;       // (context + depth) tokens of the text that the target has processed
  Buffer lag_features_;  // (lag_room, feature_dim) states that the drafter has not been told of
  Buffer committed_;     // (max_depth + 1, dim) hidden states of an accepted path
  // One call at a time. A call from inside another, as a logits processor might make, would wait for itself: an error.
  class Lock {
   public:
    explicit Lock(Engine& engine);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    Engine& engine_;
    bool nested_ = false;  // inside of one that calibrates
  };
  bool calibrated_ = false, calibrates_ = false;
  OwnedMutex mutex_{"LLM"};
  std::uint64_t ticket_ = 0;  // changes whenever the caches do
};

// A drafter may be slow or wrong, but it may not end a text: if it fails, the text goes on without.
template <class Use>
void Engine::with_drafter(Generation& text, Use&& use) {
  if (text.options_.draft == DraftMode::Never || !drafter_ || !text.stats_.drafter_error.empty()) return;
  try {
    use(*drafter_);
  } catch (const std::exception& error) {
    text.stats_.drafter_error = error.what();
  }
}

}  // namespace frspec
