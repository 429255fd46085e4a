#include "cli/hub.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/companion.h"
#include "cli/terminal.h"

extern "C" char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace frspec {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDownloads =
    "-hf: it fetches models by name, and comes with the Python package: pip install 'frspec_cpp[hub]'. Or name a file "
    "with -m";
constexpr int kRefused = 3;  // its exit status where standard output holds what is wrong (tools/download.py)

// The token is no argument: other users of the machine can read those.
std::vector<std::string> environment_with(const std::optional<std::string>& token) {
  std::vector<std::string> values;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (token && std::string_view(*entry).starts_with("HF_TOKEN=")) continue;
    values.emplace_back(*entry);
  }
  if (token) values.push_back("HF_TOKEN=" + *token);
  return values;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

struct Answer {
  std::string output;
  int status = 0;  // as waitpid gives it
};

Answer run_program(std::vector<std::string> arguments, std::vector<std::string> environment) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw Error(concat("a pipe: ", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t child = 0;
  const int error = posix_spawn(&child, arguments[0].c_str(), &actions, nullptr, pointers(arguments).data(),
                                pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    throw Error(concat(arguments[0], ": cannot be started: ", std::strerror(error)));
  }
  Answer answer;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t count = read(ends[0], piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    answer.output.append(piece.data(), static_cast<std::size_t>(count));
  }
  close(ends[0]);
  while (waitpid(child, &answer.status, 0) < 0 && errno == EINTR) {
  }
  while (!answer.output.empty() && answer.output.back() == '\n') answer.output.pop_back();
  return answer;
}

}  // namespace

fs::path fetch_from_hub(const HubRequest& request) {
  const std::string program = find_companion("frspec-download", kDownloads).string();
  std::vector<std::string> arguments = {program, "--for-binary"};
  if (request.file) arguments.push_back("--file=" + *request.file);
  if (request.is_drafter) arguments.emplace_back("--drafter");
  if (request.offline) arguments.emplace_back("--offline");
  arguments.emplace_back("--");
  arguments.push_back(request.repo);
  const Answer answer = run_program(std::move(arguments), environment_with(request.token));
  if (WIFSIGNALED(answer.status) && WTERMSIG(answer.status) == SIGINT) throw Interrupted();
  const int code = WIFEXITED(answer.status) ? WEXITSTATUS(answer.status) : -1;
  if (code == kInterruptedExit) throw Interrupted();
  if (code == kRefused) fail(answer.output);
  if (code != 0 || answer.output.empty()) {
    throw Error(concat(program, ": failed for ", request.repo, ": ",
                       code >= 0 ? concat("exit status ", code) : concat("signal ", WTERMSIG(answer.status))));
  }
  return answer.output;
}

}  // namespace frspec
