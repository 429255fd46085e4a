// Asking the Python package to render chat templates.
#include "cli/chat_prompts.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/companion.h"
#include "cli/terminal.h"
#include "tokenizer/unicode.h"

extern char** environ;

namespace frspec {
namespace {

constexpr std::string_view kPurpose =
    "it renders chat templates, which are Jinja programs, and comes with the Python package (pip install frspec_cpp)";

struct Source {
  std::string name, text;
};

Source find_template(const ChatTemplateChoice& choice, const Tokenizer& tokenizer, const std::string& model) {
  if (choice.file) return {*choice.file, *choice.text};
  const std::string_view wanted = choice.text ? std::string_view(*choice.text) : "";
  if (const auto known = tokenizer.chat_template(wanted)) {
    return {concat(model, ": key 'tokenizer.chat_template", wanted.empty() ? "" : ".", wanted, "'"),
            std::string(*known)};
  }
  if (wanted.find_first_of("{\n") != std::string_view::npos) return {"--chat-template", std::string(wanted)};
  std::string names;
  for (const std::string_view name : tokenizer.chat_template_names()) {
    if (!name.empty()) names += concat(names.empty() ? "" : ", ", quoted(name));
  }
  if (!choice.text) {
    fail(printable(model), ": found no key 'tokenizer.chat_template': the model has no chat template",
         names.empty() ? "" : concat(" but ", names), "; --chat-template or --chat-template-file gives it one");
  }
  fail("--chat-template: found ", quoted(wanted), ", expected a Jinja program or one of the model's templates: ",
       names.empty() ? "it has none with a name" : names);
}

std::string_view text_of(const Tokenizer& tokenizer, std::optional<TokenId> token) {
  return token ? tokenizer.token_text(*token) : std::string_view();
}

void check_message(const ChatMessage& message) {
  const std::size_t at = first_invalid_utf8(message.content);
  if (at == message.content.size()) return;
  fail("message of the ", message.role, ": found ", quoted(std::string_view(message.content).substr(at, 1)),
       " at byte offset ", at, ", expected valid UTF-8");
}

}  // namespace

ChatPrompts::ChatPrompts(ChatTemplateChoice choice)
    : choice_(std::move(choice)), program_(find_companion("frspec-chat-template", kPurpose).string()) {
  if (choice_.file) choice_.text = read_text(*choice_.file);
  std::array<int, 2> to = {-1, -1}, from = {-1, -1};
  if (pipe2(to.data(), O_CLOEXEC) != 0 || pipe2(from.data(), O_CLOEXEC) != 0) {
    throw Error(concat("a pipe cannot be made: ", std::strerror(errno)));
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);  // Ctrl-C is not for it
  std::array<char*, 2> arguments = {program_.data(), nullptr};
  const int error = posix_spawn(&process_, program_.c_str(), &actions, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(to[0]);
  close(from[1]);
  input_ = to[1];
  output_ = from[0];
  if (error == 0) return;
  close(input_);
  close(output_);
  throw Error(concat(printable(program_), ": cannot be run: ", std::strerror(error), "; ", kPurpose));
}

ChatPrompts::~ChatPrompts() {
  close(input_);  // which ends it
  close(output_);
  while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::vector<TokenId> ChatPrompts::tokens(const Tokenizer& tokenizer, const std::filesystem::path& model,
                                         std::span<const ChatMessage> messages) {
  const Source source = find_template(choice_, tokenizer, model.string());
  std::ostringstream request;
  JsonWriter json(request);
  json.begin_object();
  json.member("template", std::string_view(source.text));
  json.member("name", std::string_view(source.name));
  json.member("bos_token", text_of(tokenizer, tokenizer.bos()));
  json.member("eos_token", text_of(tokenizer, tokenizer.eos()));
  if (choice_.variables) json.member("variables", std::string_view(*choice_.variables));
  json.key("messages");
  json.begin_array();
  for (const ChatMessage& message : messages) {
    check_message(message);
    json.begin_object();
    json.member("role", std::string_view(message.role));
    json.member("content", std::string_view(message.content));
    json.end_object();
  }
  json.end_array();
  json.end_object();
  request << '\n';
  // A template writes its own special tokens; a BOS that it omits is added.
  std::vector<TokenId> ids = tokenizer.encode(render(request.str()), false, true);
  const bool lacks_bos = tokenizer.adds_bos() && (ids.empty() || ids.front() != *tokenizer.bos());
  if (lacks_bos) ids.insert(ids.begin(), *tokenizer.bos());
  return ids;
}

std::string ChatPrompts::render(const std::string& request) {
  for (std::string_view rest = request; !rest.empty();) {
    const ssize_t count = write(input_, rest.data(), rest.size());
    if (count < 0 && errno != EINTR) fail_ended();
    if (count > 0) rest.remove_prefix(static_cast<std::size_t>(count));
  }
  std::string header;  // "ok 123" or "error 45"
  for (std::string byte = take(1); byte != "\n"; byte = take(1)) header += byte;
  const std::size_t blank = header.find(' ');
  std::size_t size = 0;
  const char* end = header.data() + header.size();
  if (blank == std::string::npos || std::from_chars(header.data() + blank + 1, end, size).ptr != end) fail_ended();
  std::string text = take(size);
  if (header.starts_with("error")) throw InvalidInput(text);
  return text;
}

std::string ChatPrompts::take(std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t at = 0; at < bytes;) {
    const ssize_t count = read(output_, text.data() + at, bytes - at);
    if (count == 0 || (count < 0 && errno != EINTR)) fail_ended();
    if (count > 0) at += static_cast<std::size_t>(count);
  }
  return text;
}

void ChatPrompts::fail_ended() const {
  throw Error(concat(printable(program_), ": ended, or wrote something unexpected; it renders chat templates"));
}

}  // namespace frspec
