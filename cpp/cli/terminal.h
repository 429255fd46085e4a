// Standard input, output and error, and Ctrl-C.
#pragma once

#include <exception>
#include <optional>
#include <string>
#include <string_view>

namespace frspec {

// Thrown where whoever reads standard output has gone away: a reason to end, not to complain.
class OutputClosed : public std::exception {
 public:
  const char* what() const noexcept override { return "standard output was closed"; }
};

// Thrown where Ctrl-C ends work that leaves nothing to show.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

// Writes all of `text` at once. Throws OutputClosed, or Error where the text cannot be written (a full disk).
// ignore_broken_pipe must have been called.
void write_output(std::string_view text);
// One line on standard error: "frspec: " and `line`.
void write_note(std::string_view line);

// The same for something in a model's file that was put right.
void write_warning(const std::string& warning);

// A write to a closed pipe becomes an error of that write, instead of a signal that ends the process.
void ignore_broken_pipe();

// The text that the options -p and -f choose: `prompt`, or the bytes of `file` ("-": of standard input), or without
// either of standard input. Nothing is added or taken away. Throws InvalidInput where both are given, FileNotFound,
// Error.
std::string read_prompt(const std::optional<std::string>& prompt, const std::optional<std::string>& file);

// A line on standard error that is written over and over while something takes long; nothing where standard error is no
// terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(std::string_view line);
  void clear();

 private:
  bool on_terminal_;
  bool shown_ = false;
};

// From now on the first Ctrl-C sets a flag; a second one ends the process.
void catch_interrupt();
bool interrupted();

}  // namespace frspec
