// Standard streams by the system's calls, whose errors say what went wrong, and the interrupt flag.
#include "cli/terminal.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"

namespace frspec {
namespace {

volatile std::sig_atomic_t interrupt_seen = 0;

extern "C" void on_interrupt(int) { interrupt_seen = 1; }

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

void write_warning(const std::string& warning) { write_note("warning: " + warning); }

void ignore_broken_pipe() { std::signal(SIGPIPE, SIG_IGN); }

std::string read_prompt(const std::optional<std::string>& prompt, const std::optional<std::string>& file) {
  if (prompt && file) fail("-p, --prompt and -f, --file: found both, expected one of them");
  if (prompt) return *prompt;
  if (file && *file != "-") return read_file(*file);
  if (isatty(STDIN_FILENO) != 0) write_note("reading the prompt from the terminal; Ctrl-D ends it");
  return read_all(STDIN_FILENO, "standard input");
}

void catch_interrupt() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return interrupt_seen != 0; }

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
