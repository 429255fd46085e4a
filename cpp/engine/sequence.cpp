// What a sequence takes, and where it ends.
#include "engine/sequence.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {
namespace {

// Of a step, and of the text of a token.
constexpr std::size_t kUsualFresh = 64, kUsualTokenBytes = 64;

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

void check_request(std::span<const TokenId> prompt, const GenerateOptions& options, const Tokenizer& tokenizer,
                   int context) {
  const auto committed = static_cast<std::size_t>(std::max(options.committed, 0));
  if (prompt.size() <= committed) fail("prompt: found no tokens, expected at least one");
  const std::size_t own = prompt.size() - committed;
  if (own >= static_cast<std::size_t>(context)) {
    fail("prompt: found ", own, " tokens, expected at most ", context - 1, ": the context holds ", context);
  }
  if (prompt.size() > static_cast<std::size_t>(context)) {
    fail("committed: found ", committed, " tokens behind a prompt of ", own, ", expected at most ",
         static_cast<std::size_t>(context) - own, ": the context holds ", context);
  }
  const bool until_full = options.max_tokens == kUntilFull || options.max_tokens == kUntilContextFilled;
  if (options.max_tokens < 1 && !until_full) {
    fail("max_tokens: found ", options.max_tokens, ", expected at least 1, or -1 for as many as the context holds");
  }
  if (!until_full && options.committed > options.max_tokens) {
    fail("committed: found ", options.committed, " tokens, expected at most ", options.max_tokens, ", max_tokens");
  }
  if (options.committed > 0 && options.verify != VerifyMode::Keyed) {
    fail("committed: found rejection sampling, whose text depends on the drafts before, expected verify 'keyed'");
  }
  if (options.min_tokens < 0 || (options.min_tokens > options.max_tokens && !until_full)) {
    fail("min_tokens: found ", options.min_tokens, ", expected 0 to ", options.max_tokens, ", max_tokens");
  }
  if (options.logprobs && (*options.logprobs < 0 || *options.logprobs > kMaxLogprobs)) {
    fail("logprobs: found ", *options.logprobs, ", expected 0 to ", kMaxLogprobs);
  }
  for (const TokenId id : options.stop_tokens) {
    if (id < 0 || id >= tokenizer.size()) {
      fail("stop_token_ids: found id ", id, ", expected 0 to ", tokenizer.size() - 1);
    }
  }
  const DraftLimits& limits = options.limits;
  if (limits.most < -1) fail("draft_max: found ", limits.most, ", expected at least 0, or -1 for as many as pay");
  if (limits.least < 0) fail("draft_min: found ", limits.least, ", expected at least 0");
  // How long a draw is may depend on what was drawn.
  if (limits.least > 0 && options.verify != VerifyMode::Keyed)
    fail("draft_min: found ", limits.least, " beside drafts that are drawn, expected verify 'keyed', or 0");
  if (!(limits.chance >= 0.0f && limits.chance <= 1.0f))
    fail("draft_p_min: found ", limits.chance, ", expected 0 to 1");
  check_tokens(prompt, tokenizer, "prompt");
  check_tokens(options.prediction, tokenizer, "prediction");
  check_sampling(options.sampling);
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::Stop:
      return "stop";
    case FinishReason::Length:
      return "length";
    case FinishReason::Cancelled:
      return "cancelled";
    case FinishReason::None:
      break;
  }
  return "";
}

void check_tokens(std::span<const TokenId> tokens, const Tokenizer& tokenizer, std::string_view name) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= tokenizer.size()) {
      fail(name, ": token ", i, ": found id ", tokens[i], ", expected 0 to ", tokenizer.size() - 1);
    }
  }
}

Sequence::Sequence(std::shared_ptr<const Tokenizer> tokenizer, std::string model, int context,
                   std::vector<TokenId> prompt, const GenerateOptions& options)
    : id_(next_id()),
      tokenizer_(std::move(tokenizer)),
      model_(std::move(model)),
      context_(context),
      text_(std::make_shared<Text>(Text{.tokens = std::move(prompt)})),
      prompt_size_(text_->tokens.size()),
      options_(options),
      decoder_(*tokenizer_),
      stop_text_(options.stop) {
  text_->own = prompt_size_;
  check_request(tokens(), options_, *tokenizer_, context_);
  if (options_.limits.most == 0 && options_.verify == VerifyMode::Keyed) options_.draft = DraftMode::Never;
  if (options_.max_tokens < 0) options_.max_tokens = std::numeric_limits<int>::max();
  const auto most = static_cast<std::size_t>(std::min(tokens_left(), room_left()));
  fresh_.resize(std::min(most, kUsualFresh));
  for (GeneratedToken& fresh : fresh_) fresh.text.reserve(kUsualTokenBytes);
  stats_.prompt_tokens = static_cast<std::int64_t>(prompt_size_);
  stats_.seed = options_.sampling.seed;
  if (options_.committed > 0) resume();
}

// Brings all that looks at the text to where it was behind the committed tokens.
void Sequence::resume() {
  const auto committed = tokens().last(static_cast<std::size_t>(options_.committed));
  int count = 0;
  for (const TokenId token : committed) {
    if (stop_text_.stopped()) break;
    stop_text_.push(decoder_.push(token), ++count >= options_.min_tokens);
  }
  if (options_.grammar) options_.grammar->advance(committed);
  options_.min_tokens = std::max(options_.min_tokens - options_.committed, 0);
  if (options_.max_tokens != std::numeric_limits<int>::max()) options_.max_tokens -= options_.committed;
  finish_if_full();
}

std::size_t Sequence::reserve(int beyond) {
  const std::int64_t left = std::min(tokens_left(), room_left());
  const std::size_t most = text_->own + static_cast<std::size_t>(left + beyond);
  text_->tokens.reserve(most);
  return most;
}

void Sequence::append(std::span<const TokenId> tokens) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (finish_ == FinishReason::None) {
      append_one(tokens[i], i + 1 < tokens.size());
    } else {
      text_->tokens.push_back(tokens[i]);
    }
  }
  if (options_.grammar && finish_ == FinishReason::None) options_.grammar->advance(tokens);
}

bool Sequence::is_end(TokenId token) const {
  if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) != options_.stop_tokens.end()) {
    return true;
  }
  return !options_.ignore_eos && tokenizer_->is_end_of_generation(token);
}

void Sequence::append_one(TokenId token, bool drafted) {
  if (token < 0) {
    throw Error(
        concat(model_, ": the logits after token ", text_->own,
               " leave no token: they are not finite (the weights make the model overflow, or temperature, penalty or "
               "bias is extreme), or every token is forbidden"));
  }
  text_->tokens.push_back(token);
  if (is_end(token)) {
    ended_by_token_ = true;
    finish(FinishReason::Stop);
    return;
  }
  text_->own = text_->tokens.size();
  ++stats_.generated_tokens;
  if (fresh_count_ == fresh_.size()) fresh_.emplace_back();
  GeneratedToken& fresh = fresh_[fresh_count_++];
  fresh.id = token;
  fresh.drafted = drafted;
  fresh.text = stop_text_.push(decoder_.push(token), stats_.generated_tokens >= options_.min_tokens);
  finish_if_full();
}

void Sequence::finish_if_full() {
  if (stop_text_.stopped()) {
    finish(FinishReason::Stop);
  } else if (tokens_left() == 0 || room_left() == 0) {
    finish(FinishReason::Length);
  }
}

void Sequence::finish(FinishReason reason) {
  finish_ = reason;
  if (stop_text_.stopped()) return;
  closing_text_ = stop_text_.push(decoder_.finish());
  closing_text_ += stop_text_.finish();
}

}  // namespace frspec
