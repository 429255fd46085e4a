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

// Where a page of a mapped file cannot be had, the process ends with a line that says so.
void explain_bus_error();
// The same for something in a model's file that was put right.
void write_warning(const std::string& warning);

// A write to a closed pipe becomes an error of that write, instead of a signal that ends the process.
void ignore_broken_pipe();

// What `file` holds, or standard input for "-". Throws FileNotFound, Error.
std::string read_text(const std::string& file);

// The text that the options -p and -f choose: `prompt`, or what `file` holds, or without either standard input. As in
// llama.cpp, one line end at the end of a file belongs to the file and not to the prompt; that of an answer's header
// ("<|im_start|>assistant"), which chat templates write, stays. Throws InvalidInput where both are given, and as
// read_text.
std::string read_prompt(const std::optional<std::string>& prompt, const std::optional<std::string>& file);

// `text` with its escapes replaced, as llama.cpp does: \n \r \t \' \" \\ and \xHH, a byte; others stay as they are.
std::string unescaped(std::string_view text);

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

// From now on the first Ctrl-C sets a flag, which is not set now; a second one ends the process.
void catch_interrupt();
bool interrupted();

// Standard input, line by line.
class LineReader {
 public:
  // The next line without its end; nothing at the end of the input, or where Ctrl-C was pressed (interrupted() tells).
  // catch_interrupt must have been called. Throws Error.
  std::optional<std::string> read();

 private:
  std::string pending_;  // was read, and follows the last line
  bool ended_ = false;
};

}  // namespace frspec
