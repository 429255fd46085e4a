// The prompts of a chat. Chat templates are Jinja programs, which only Jinja itself renders exactly: the Python
// package's `frspec-chat-template` does it, in a process of its own beside this one.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace frspec {

struct ChatMessage {
  std::string role, content;
};

// What --chat-template and its kin say; none of them: the model's own template.
struct ChatTemplateChoice {
  std::optional<std::string> text;       // a Jinja program, or the name of one in the model's file
  std::optional<std::string> file;       // a file with one
  std::optional<std::string> variables;  // JSON text of an object
};

class ChatPrompts {
 public:
  // Starts the other process, which gets ready while a model is loaded. Throws FileNotFound where it is not installed,
  // or there is no such file with a template.
  explicit ChatPrompts(ChatTemplateChoice choice);
  ~ChatPrompts();
  ChatPrompts(const ChatPrompts&) = delete;
  ChatPrompts& operator=(const ChatPrompts&) = delete;

  // Token ids of the prompt, up to where the answer begins. `model`: the file, for messages. Throws InvalidInput where
  // there is no template, it is none, or it does not accept the messages; Error where the other process has failed.
  std::vector<TokenId> tokens(const Tokenizer& tokenizer, const std::filesystem::path& model,
                              std::span<const ChatMessage> messages);

 private:
  std::string render(const std::string& request);
  std::string take(std::size_t bytes);
  [[noreturn]] void fail_ended() const;

  ChatTemplateChoice choice_;
  std::string program_;
  pid_t process_ = -1;
  int input_ = -1, output_ = -1;  // the other process's
};

}  // namespace frspec
