// `frspec chat`.
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/request.h"
#include "cli/terminal.h"
#include "cli/transcript.h"

namespace frspec {
namespace {

constexpr std::string_view kCommands =
    "/clear begins anew, /regen answers the last message again, with the next seed, /stats tells what the last answer "
    "took, /exit or Ctrl-D ends; a backslash at a line's end continues it on the next line; Ctrl-C stops an answer, "
    "and "
    "at the prompt ends";

class Chat {
 public:
  explicit Chat(Request& request)
      : request_(request), prompts_(request.chat_template), interactive_(isatty(STDIN_FILENO) != 0) {
    if (const auto system = system_prompt(request)) messages_.push_back({"system", *system});
    fixed_ = messages_.size();
    engine_ = load_engine(request);
    // What is wrong with the template, or with a system prompt, is said before anything is asked.
    std::vector<ChatMessage> probe = messages_;
    probe.push_back({"user", "?"});
    prompts_.tokens(*engine_->tokenizer(), request.engine.target, probe);
  }

  int run() {
    catch_interrupt();
    if (interactive_) write_note(concat(engine_->device(), "; /help shows the commands"));
    std::optional<std::string> message = request_.prompt;
    for (;;) {
      if (!message) message = ask();
      if (!message) break;
      if (!obey(*message)) break;
      message.reset();
    }
    if (request_.engine.adapt) engine_->save_ranks();
    return interrupted() ? kInterruptedExit : 0;
  }

 private:
  // What the user says next; nothing at the end.
  std::optional<std::string> ask() {
    std::string message;
    for (;;) {
      if (interactive_) show_prompt(message.empty() ? "> " : "| ");
      std::optional<std::string> line = input_.read();
      if (!line && interactive_) write_output("\n");
      if (!line) return message.empty() || interrupted() ? std::nullopt : std::optional(message);
      const bool goes_on = line->ends_with('\\');
      if (goes_on) line->back() = '\n';
      message += *line;
      if (!goes_on && !message.empty()) return message;
    }
  }

  // A command or a message; false ends the chat.
  bool obey(const std::string& line) {
    if (line == "/exit" || line == "/quit") return false;
    if (line == "/clear") {
      messages_.resize(fixed_);
    } else if (line == "/regen") {
      regenerate();
    } else if (line == "/stats") {
      if (sequence_) write_statistics(*sequence_, engine_->device(), request_.generate.draft != DraftMode::Never);
    } else if (line == "/help") {
      write_note(kCommands);
    } else {
      say(line);
    }
    return true;
  }

  // With nobody to correct a message, one that cannot be answered ends the program.
  void say(const std::string& message) {
    messages_.push_back({"user", message});
    try {
      answer();
    } catch (const InvalidInput& error) {
      messages_.pop_back();
      if (!interactive_) throw;
      write_note(concat("error: ", error.what()));
    }
  }

  void regenerate() {
    if (messages_.size() == fixed_) {
      write_note("/regen: there is no answer yet");
      return;
    }
    messages_.pop_back();  // the answer
    const std::string message = std::move(messages_.back().content);
    messages_.pop_back();
    ++request_.generate.sampling.seed;
    say(message);
  }

  void answer() {
    std::vector<TokenId> prompt = prompts_.tokens(*engine_->tokenizer(), request_.engine.target, messages_);
    sequence_ = engine_->begin(std::move(prompt), request_.generate);
    Transcript transcript(true, request_.show_drafts);
    transcript.follow(*engine_, *sequence_);
    if (!transcript.text().ends_with('\n')) write_output("\n");
    messages_.push_back({"assistant", transcript.text()});
    if (interrupted()) catch_interrupt();  // it was for the answer
    const bool full = sequence_->stats().prompt_tokens + sequence_->stats().generated_tokens >= engine_->context();
    if (full) write_note("the context is full: /clear begins anew, -c sets its size");
  }

  // On standard error, so that standard output holds the answers and nothing else.
  static void show_prompt(std::string_view prompt) { (void)!write(STDERR_FILENO, prompt.data(), prompt.size()); }

  Request& request_;
  ChatPrompts prompts_;
  bool interactive_;
  LineReader input_;
  std::vector<ChatMessage> messages_;
  std::size_t fixed_ = 0;  // messages that /clear leaves
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Sequence> sequence_;  // the last answer
};

}  // namespace

int chat_command(std::span<char* const> arguments) {
  Request request;
  if (!read_request(request, Command::Chat, arguments)) return 0;
  return Chat(request).run();
}

}  // namespace frspec
