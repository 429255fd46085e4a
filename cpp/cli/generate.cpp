// `frspec generate`.
#include <unistd.h>

#include <charconv>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/request.h"
#include "cli/terminal.h"
#include "cli/transcript.h"

namespace frspec {
namespace {

// The part of a file of token ids that holds them: all of it, or of a JSON object the array "tokens", as
// `frspec tokenize --json` writes it.
std::string_view ids_of(std::string_view text) {
  constexpr std::string_view kKey = "\"tokens\"";  // in a string, its quotes would stand behind backslashes
  const std::size_t key = text.find(kKey);
  const std::size_t begin = key == std::string_view::npos ? key : text.find('[', key + kKey.size());
  if (!text.starts_with('{') || begin == std::string_view::npos) return text;
  return text.substr(begin, text.find(']', begin) - begin);
}

// Token ids between white space, commas and brackets: "1 2 3", or JSON's "[1, 2, 3]".
std::vector<TokenId> parse_tokens(std::string_view text, const std::string& file) {
  constexpr std::string_view kBetween = " \t\r\n,[]";
  text = ids_of(text);
  std::vector<TokenId> tokens;
  for (std::size_t at = text.find_first_not_of(kBetween); at != std::string_view::npos;
       at = text.find_first_not_of(kBetween, at)) {
    const std::string_view word = text.substr(at, text.find_first_of(kBetween, at) - at);
    TokenId& token = tokens.emplace_back();
    const auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), token);
    if (error != std::errc() || rest != word.data() + word.size()) {
      fail(printable(file), ": found ", quoted(word), ", expected token ids, as 'frspec tokenize' prints with --json");
    }
    at += word.size();
  }
  return tokens;
}

// The prompt's token ids. What has to be read is read before the models are loaded, so that errors come at once.
class Prompt {
 public:
  explicit Prompt(const Request& request) : request_(request) {
    if (request.token_file) {
      tokens_ = parse_tokens(read_text(*request.token_file), *request.token_file);
      return;
    }
    text_ = read_prompt(request.prompt, request.file);
    if (!request.chat) return;
    if (const auto system = system_prompt(request)) messages_.push_back({"system", *system});
    messages_.push_back({"user", text_});
    prompts_ = std::make_unique<ChatPrompts>(request.chat_template);
  }

  std::vector<TokenId> tokens(const Tokenizer& tokenizer) {
    if (request_.token_file) return std::move(tokens_);
    if (request_.chat) return prompts_->tokens(tokenizer, request_.engine.target, messages_);
    return tokenizer.encode(text_, true, request_.parse_special);
  }

 private:
  const Request& request_;
  std::string text_;
  std::vector<TokenId> tokens_;
  std::vector<ChatMessage> messages_;
  std::unique_ptr<ChatPrompts> prompts_;  // of a chat
};

void write_logprobs(JsonWriter& json, const Transcript& transcript, std::span<const TokenLogprobs> logprobs) {
  json.key("logprobs");
  json.begin_array();
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    json.begin_object();
    json.member("token", transcript.tokens()[i]);
    json.member("logprob", static_cast<double>(logprobs[i].chosen));
    json.key("top");
    json.begin_array();
    for (const auto& [id, value] : logprobs[i].best) {
      json.begin_object();
      json.member("token", id);
      json.member("logprob", static_cast<double>(value));
      json.end_object();
    }
    json.end_array();
    json.end_object();
  }
  json.end_array();
}

void write_tuning(JsonWriter& json, const Tuning& tuning) {
  json.key("tuning");
  json.begin_object();
  json.member("head", std::string_view(tuning.head));
  json.member("translation", std::string_view(tuning.translation));
  json.member("drafts", tuning.drafts);
  json.member("nodes", tuning.nodes);
  json.member("levels", tuning.levels);
  json.member("gain", tuning.gain);
  json.member("cost", tuning.cost);
  json.member("tokens_per_second", tuning.tokens_per_second);
  json.member("plain_tokens_per_second", tuning.plain_tokens_per_second);
  json.member("summary", std::string_view(tuning.summary));
  json.end_object();
}

void write_json(const Transcript& transcript, const Sequence& sequence, const char* finish_reason, bool with_logprobs) {
  const Stats& stats = sequence.stats();
  std::ostringstream out;
  JsonWriter json(out);
  json.begin_object();
  json.member("text", std::string_view(transcript.text()));
  json.key("tokens");
  json.begin_array();
  for (const TokenId id : transcript.tokens()) json.value(id);
  json.end_array();
  json.member("prompt_tokens", stats.prompt_tokens);
  json.member("finish_reason", finish_reason);
  if (with_logprobs) write_logprobs(json, transcript, sequence.logprobs());
  json.key("stats");
  json.begin_object();
  json.member("tokens_per_second", stats.tokens_per_second());
  json.member("accepted_length", stats.accepted_length());
  json.member("steps", stats.steps);
  json.member("drafted_steps", stats.drafted_steps);
  json.member("draft_seconds", stats.draft_seconds);
  json.member("verify_seconds", stats.verify_seconds);
  json.member("prefill_seconds", stats.prefill_seconds);
  json.member("cached_tokens", stats.cached_tokens);
  if (!stats.ranks.empty()) json.member("ranks", std::string_view(stats.ranks));
  json.member("seed", stats.seed);
  if (stats.tuning) write_tuning(json, *stats.tuning);
  json.end_object();
  json.end_object();
  out << '\n';
  write_output(out.str());
}

}  // namespace

int generate_command(std::span<char* const> arguments) {
  Request request;
  if (!read_request(request, Command::Generate, arguments)) return 0;
  Prompt prompt(request);
  const std::unique_ptr<Engine> engine = load_engine(request);
  const std::unique_ptr<Sequence> sequence = engine->begin(prompt.tokens(*engine->tokenizer()), request.generate);
  if (request.show_drafts) {
    write_note(concat(kDraftedColor, "coloured", kPlainColor, ": tokens that were drafted and accepted"));
  }
  catch_interrupt();
  Transcript transcript(!request.json, request.show_drafts);
  transcript.follow(*engine, *sequence);
  if (request.json) {
    write_json(transcript, *sequence, reason_of(*sequence), request.generate.logprobs.has_value());
  } else {
    if (!transcript.text().ends_with('\n') && !transcript.text().empty() && isatty(STDOUT_FILENO) != 0) {
      write_output("\n");
    }
    write_statistics(*sequence, engine->device(), request.generate.draft != DraftMode::Never);
  }
  if (request.engine.adapt) engine->save_ranks();
  return sequence->finish_reason() == FinishReason::None ? kInterruptedExit : 0;
}

}  // namespace frspec
