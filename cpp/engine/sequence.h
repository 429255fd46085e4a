// One sequence: what was asked for, its tokens so far, and what came of them. It appends tokens and says where it ends;
// an Engine writes it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/options.h"
#include "engine/stats.h"
#include "engine/step_trace.h"
#include "engine/stop_text.h"
#include "tokenizer/tokenizer.h"

namespace frspec {

enum class FinishReason {
  None,       // still running
  Stop,       // an end-of-generation token, a stop token or a stop string
  Length,     // max_tokens, or the context is full
  Cancelled,  // Sequence::cancel()
};
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled"; "" while running

// A token of the sequence, whether a draft had foreseen it, and what may be shown of the text since the token before:
// whole characters, and nothing that might become part of a stop string.
struct GeneratedToken {
  TokenId id = 0;
  bool drafted = false;
  std::string text;
};

// Log-probabilities under the target's own distribution, at temperature 1 and before the sampler chain.
struct TokenLogprobs {
  float chosen = 0.0f;                          // of the token itself
  std::vector<std::pair<TokenId, float>> best;  // of the most probable tokens, best first
};

// The tokens of a sequence, prompt and text. Who keeps its caches keeps them, too, beyond its life.
struct Text {
  std::vector<TokenId> tokens;
  std::size_t own = 0;  // so many are the sequence's; behind them is what its last step gave beyond its end
};

class Sequence {
 public:
  // Room for `context` tokens; `model` is named in messages. Throws InvalidInput for a request that cannot be: a prompt
  // of no token, without room for one more or with ids that are none, and options outside of their bounds. One that
  // resumes a text may have ended already.
  Sequence(std::shared_ptr<const Tokenizer> tokenizer, std::string model, int context, std::vector<TokenId> prompt,
           const GenerateOptions& options);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  // --- For who wants the text ---
  // Ends it, from any thread: the step that is running is the last one. A prompt that is being read is abandoned
  // between two layers.
  void cancel() { cancelled_.store(true); }
  // Asked between the layers of a prompt; returning false abandons the prompt, and the step then gives nothing.
  void on_progress(std::function<bool()> keep_going) { keep_going_ = std::move(keep_going); }
  FinishReason finish_reason() const { return finish_; }
  const Stats& stats() const { return stats_; }
  // What was still held back when the sequence ended: it follows the last token's.
  const std::string& closing_text() const { return closing_text_; }
  // Of every token so far, where GenerateOptions::logprobs asked for them.
  std::span<const TokenLogprobs> logprobs() const { return logprobs_; }
  // Every step so far, where GenerateOptions::trace asked for them: the passes after the prompt's own, which gave the
  // first token.
  std::span<const StepTrace> trace() const { return trace_; }

  // --- For who writes it ---
  std::uint64_t id() const { return id_; }  // no other sequence of this process has it
  const GenerateOptions& options() const { return options_; }
  std::span<const TokenId> tokens() const { return std::span(text_->tokens).first(text_->own); }  // of prompt and text
  std::span<const TokenId> prompt() const { return tokens().first(prompt_size_); }
  std::shared_ptr<const Text> text() const { return text_; }
  // Tokens that it may have on its way, where a pass gives at most so many beyond its end; from now on it has room.
  std::size_t reserve(int beyond);
  // Tokens that may still come, and that the context has room for.
  std::int64_t tokens_left() const { return options_.max_tokens - stats_.generated_tokens; }
  std::int64_t room_left() const { return context_ - static_cast<std::int64_t>(text_->own); }
  bool cancelled() const { return cancelled_.load(); }
  // What has ended it before its end: it can go on no more. Null: nothing.
  const std::exception_ptr& error() const { return error_; }
  void fail(std::exception_ptr error) { error_ = std::move(error); }
  // Of those who keep something for it: whether it is still there.
  std::weak_ptr<const void> life() const { return life_; }
  bool goes_on() const { return !cancelled() && (!keep_going_ || keep_going_()); }
  // A step begins; what the last one gave is forgotten.
  void begin_step() { fresh_count_ = 0; }
  // The tokens that a pass of the target gave, all but the last of them drafted; what is behind its end it only keeps.
  // Throws Error where one is none.
  void append(std::span<const TokenId> tokens);
  void finish(FinishReason reason);
  // What append() took in this step; and whether the pass gave one more, which ended the sequence without being part of
  // it.
  std::span<const GeneratedToken> fresh() const { return std::span(fresh_).first(fresh_count_); }
  bool ended_by_token() const { return ended_by_token_; }
  Stats& stats() { return stats_; }
  void add(TokenLogprobs logprobs) { logprobs_.push_back(std::move(logprobs)); }
  void add(StepTrace trace) { trace_.push_back(std::move(trace)); }
  void set_step_seconds(double seconds) { trace_.back().total_seconds = seconds; }

 private:
  void resume();
  void append_one(TokenId token, bool drafted);
  void finish_if_full();
  bool is_end(TokenId token) const;

  std::uint64_t id_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string model_;
  int context_;
  std::shared_ptr<Text> text_;
  std::size_t prompt_size_;
  GenerateOptions options_;
  StreamDecoder decoder_;
  StopText stop_text_;
  std::function<bool()> keep_going_;
  std::atomic<bool> cancelled_{false};
  std::exception_ptr error_;
  std::shared_ptr<const void> life_ = std::make_shared<char>();
  std::vector<GeneratedToken> fresh_;  // the first ones are of this step; the memory of their texts stays
  std::size_t fresh_count_ = 0;
  std::vector<TokenLogprobs> logprobs_;
  std::vector<StepTrace> trace_;
  std::string closing_text_;
  bool ended_by_token_ = false;
  FinishReason finish_ = FinishReason::None;
  Stats stats_;
};

// Throws InvalidInput for an id that the vocabulary does not have.
void check_tokens(std::span<const TokenId> tokens, const Tokenizer& tokenizer, std::string_view name = "prompt");

}  // namespace frspec
