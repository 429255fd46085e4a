// One text being written.
#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"

namespace frspec {

Generation::Generation(Engine& engine, std::vector<TokenId> prompt, const GenerateOptions& options)
    : engine_(engine),
      ticket_(engine.ticket_),
      tokens_(std::move(prompt)),
      prompt_size_(tokens_.size()),
      options_(options),
      decoder_(engine.tokenizer()),
      stop_text_(options.stop) {
  if (options_.max_tokens < 0) options_.max_tokens = std::numeric_limits<int>::max();
  stats_.prompt_tokens = static_cast<std::int64_t>(prompt_size_);
  stats_.seed = options_.sampling.seed;
}

std::span<const GeneratedToken> Generation::step() {
  fresh_.clear();
  if (finish_ != FinishReason::None) return fresh_;
  const Engine::Lock lock(engine_);
  if (cancelled_.load()) {
    if (ticket_ == engine_.ticket_) engine_.backend_->end_loop();
    finish(FinishReason::Cancelled);
    return hand_out();
  }
  if (ticket_ != engine_.ticket_) {
    throw Error("this generation cannot go on: it was interrupted, or its engine began another text");
  }
  const auto start = std::chrono::steady_clock::now();
  const bool reads_prompt = !std::exchange(started_, true);
  // Invalid until the step is whole: after an error, or half a prompt, the caches are of no use.
  ++engine_.ticket_;
  bool whole = true;
  if (reads_prompt) {
    whole = engine_.read_prompt(*this);
  } else {
    engine_.run_step(*this);
  }
  if (whole) ticket_ = engine_.ticket_;
  if (!whole && cancelled_.load()) finish(FinishReason::Cancelled);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (reads_prompt) {
    stats_.prefill_seconds = seconds;
  } else if (options_.trace) {
    trace_.back().total_seconds = seconds;
  }
  stats_.total_seconds += seconds;
  return hand_out();
}

std::span<const GeneratedToken> Generation::hand_out() {
  if (finish_ != FinishReason::None && engine_.tuner_) {
    stats_.tuning = engine_.tuning();
    engine_.keep_tuning();
  }
  engine_.note_written(*this);
  return fresh_;
}

void Generation::take(std::span<const TokenId> tokens) {
  for (std::size_t i = 0; i < tokens.size() && finish_ == FinishReason::None; ++i) {
    take_one(tokens[i], i + 1 < tokens.size());
  }
}

bool Generation::ends_text(TokenId token) const {
  if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) != options_.stop_tokens.end()) {
    return true;
  }
  return !options_.ignore_eos && engine_.tokenizer_->is_end_of_generation(token);
}

void Generation::take_one(TokenId token, bool drafted) {
  if (token < 0) {
    throw Error(
        concat(engine_.file_->path().string(), ": the logits after token ", tokens_.size(),
               " leave no token: they are not finite (the weights make the model overflow, or temperature, penalty or "
               "bias is extreme), or every token is forbidden"));
  }
  if (ends_text(token)) {
    ended_by_token_ = true;
    finish(FinishReason::Stop);
    return;
  }
  tokens_.push_back(token);
  ++stats_.generated_tokens;
  fresh_.push_back(
      {token, drafted, stop_text_.push(decoder_.push(token), stats_.generated_tokens >= options_.min_tokens)});
  if (stop_text_.stopped()) {
    finish(FinishReason::Stop);
  } else if (stats_.generated_tokens == options_.max_tokens ||
             static_cast<std::int64_t>(tokens_.size()) == engine_.context_) {
    finish(FinishReason::Length);
  }
}

void Generation::finish(FinishReason reason) {
  finish_ = reason;
  if (stop_text_.stopped()) return;
  closing_text_ = stop_text_.push(decoder_.finish());
  closing_text_ += stop_text_.finish();
}

}  // namespace frspec
