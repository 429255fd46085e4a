// One text being written.
#include <chrono>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"

namespace frspec {

Generation::Generation(Engine& engine, std::vector<TokenId> prompt, const GenerateOptions& options)
    : engine_(engine), ticket_(engine.ticket_), prompt_(std::move(prompt)), options_(options) {
  stats_.prompt_tokens = static_cast<std::int64_t>(prompt_.size());
}

std::span<const GeneratedToken> Generation::step() {
  fresh_.clear();
  if (finish_ != FinishReason::None) return fresh_;
  const std::scoped_lock lock(engine_.mutex_);
  if (ticket_ != engine_.ticket_) {
    throw Error("this generation cannot go on: it was interrupted, or its engine began another text");
  }
  const auto start = std::chrono::steady_clock::now();
  const bool reads_prompt = !std::exchange(started_, true);
  // Invalid until the step is whole: after an error, or half a prompt, the caches are of no use.
  ++engine_.ticket_;
  Drafter& drafter = options_.draft && engine_.drafter_ ? *engine_.drafter_ : *engine_.no_drafter_;
  bool whole = true;
  if (reads_prompt) {
    whole = engine_.read_prompt(*this, drafter);
  } else {
    engine_.run_step(*this, drafter);
  }
  if (whole) ticket_ = engine_.ticket_;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (reads_prompt) stats_.prefill_seconds = seconds;
  stats_.total_seconds += seconds;
  return fresh_;
}

void Generation::take(std::span<const TokenId> tokens) {
  for (std::size_t i = 0; i < tokens.size() && finish_ == FinishReason::None; ++i) {
    if (tokens[i] < 0) {
      throw Error(concat(engine_.file_->path().string(), ": the logits after token ",
                         stats_.prompt_tokens + stats_.generated_tokens,
                         " are not finite: the weights make the model overflow"));
    }
    if (!options_.ignore_eos && engine_.tokenizer_->is_end_of_generation(tokens[i])) {
      finish_ = FinishReason::Stop;
      return;
    }
    fresh_.push_back({tokens[i], i + 1 < tokens.size()});
    ++stats_.generated_tokens;
    const std::int64_t length = stats_.prompt_tokens + stats_.generated_tokens;
    if (stats_.generated_tokens == options_.max_tokens || length == engine_.context_) finish_ = FinishReason::Length;
  }
}

}  // namespace frspec
