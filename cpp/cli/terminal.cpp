// Standard streams by the system's calls, whose errors say what went wrong, and the interrupt flag.
#include "cli/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace frspec {
namespace {

volatile std::sig_atomic_t interrupt_seen = 0;

// Ctrl-C writes here, so that who waits for input wakes up, whichever thread takes the signal.
std::array<int, 2> wake_pipe = {-1, -1};

extern "C" void on_interrupt(int) {
  const int error = errno;
  interrupt_seen = 1;
  if (wake_pipe[1] >= 0) (void)!::write(wake_pipe[1], "", 1);
  errno = error;
}

extern "C" void on_bus_error(int) {
  constexpr std::string_view kLine =
      "frspec: error: a file that is mapped into memory was shortened while it was in use, or cannot be read any more "
      "(SIGBUS); --no-mmap reads models into memory first\n";
  (void)!::write(STDERR_FILENO, kLine.data(), kLine.size());
  ::_exit(1);
}

// False where writing failed; errno says why.
bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

std::string read_all(int descriptor, const std::string& name) {
  std::string text;
  std::array<char, 1 << 16> piece;
  for (;;) {
    const ssize_t count = read(descriptor, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Error(concat(name, ": cannot be read: ", std::strerror(errno)));
    if (count == 0) return text;
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
}

std::string read_file(const std::string& path) {
  class Descriptor {
   public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() { close(number_); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number() const { return number_; }

   private:
    int number_;
  };
  const int number = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (number < 0) throw FileNotFound(concat(path, ": cannot be opened: ", std::strerror(errno)));
  const Descriptor file(number);
  return read_all(file.number(), path);
}

// Whether a text ends with what chat templates write before an answer, line ends included: "<|im_start|>assistant\n",
// "<start_of_turn>model\n", "<|start_header_id|>assistant<|end_header_id|>\n\n".
bool ends_with_turn_header(std::string_view text) {
  constexpr std::string_view kEndHeader = "<|end_header_id|>\n\n";
  return text.ends_with(kEndHeader) || text.ends_with(">assistant\n") || text.ends_with(">model\n");
}

// Less the line end that a file has and its text has not.
std::string without_line_end(std::string text) {
  if (ends_with_turn_header(text)) return text;
  const std::size_t size = text.ends_with("\r\n") ? 2 : text.ends_with('\n') ? 1 : 0;
  text.resize(text.size() - size);
  return text;
}

}  // namespace

void write_output(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return;
  if (errno == EPIPE) throw OutputClosed();
  throw Error(concat("standard output: ", std::strerror(errno)));
}

void write_note(std::string_view line) {
  // Nobody is left to be told where this fails.
  (void)write_all(STDERR_FILENO, concat("frspec: ", line, "\n"));
}

void explain_bus_error() { std::signal(SIGBUS, on_bus_error); }
void write_warning(const std::string& warning) { write_note("warning: " + warning); }

void ignore_broken_pipe() { std::signal(SIGPIPE, SIG_IGN); }

std::string read_text(const std::string& file) {
  if (file != "-") return read_file(file);
  if (isatty(STDIN_FILENO) != 0) write_note("reading from the terminal; Ctrl-D ends it");
  return read_all(STDIN_FILENO, "standard input");
}

std::string read_prompt(const std::optional<std::string>& prompt, const std::optional<std::string>& file) {
  if (prompt && file) fail("-p, --prompt and -f, --file: found both, expected one of them");
  return prompt ? *prompt : without_line_end(read_text(file.value_or("-")));
}

std::string unescaped(std::string_view text) {
  constexpr std::string_view kNames = "nrt'\"\\", kBytes = "\n\r\t'\"\\";
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t name = text[i] == '\\' && i + 1 < text.size() ? kNames.find(text[i + 1]) : std::string_view::npos;
    std::uint8_t byte = 0;
    const char* digits = text.data() + i + 2;
    if (name != std::string_view::npos) {
      result += kBytes[name];
      i += 1;
    } else if (text.substr(i).starts_with("\\x") && i + 3 < text.size() &&
               std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      result += static_cast<char>(byte);
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

void catch_interrupt() {
  if (wake_pipe[0] < 0 && pipe2(wake_pipe.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    throw Error(concat("a pipe cannot be made: ", std::strerror(errno)));
  }
  std::array<char, 16> old;
  while (::read(wake_pipe[0], old.data(), old.size()) > 0) {
  }
  interrupt_seen = 0;
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return interrupt_seen != 0; }

std::optional<std::string> LineReader::read() {
  for (;;) {
    if (const std::size_t end = pending_.find('\n'); end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    if (ended_) return pending_.empty() ? std::nullopt : std::optional(std::exchange(pending_, {}));
    std::array<pollfd, 2> sources = {pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{wake_pipe[0], POLLIN, 0}};
    if (poll(sources.data(), sources.size(), -1) < 0 && errno != EINTR) {
      throw Error(concat("standard input: ", std::strerror(errno)));
    }
    if (interrupted()) return std::nullopt;
    if (sources[0].revents == 0) continue;
    std::array<char, 4096> piece;
    const ssize_t count = ::read(STDIN_FILENO, piece.data(), piece.size());
    if (count < 0 && errno != EINTR) throw Error(concat("standard input: ", std::strerror(errno)));
    if (count > 0) pending_.append(piece.data(), static_cast<std::size_t>(count));
    ended_ = count == 0;
  }
}

namespace {

// Progress is decoration: where it cannot be written, nothing is lost.
void decorate(std::string_view text) { (void)!::write(STDERR_FILENO, text.data(), text.size()); }

}  // namespace

ProgressLine::ProgressLine() : on_terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressLine::show(std::string_view line) {
  if (!on_terminal_) return;
  decorate(concat("\r\x1b[K", line));
  shown_ = true;
}

void ProgressLine::clear() {
  if (shown_) decorate("\r\x1b[K");
  shown_ = false;
}

}  // namespace frspec
