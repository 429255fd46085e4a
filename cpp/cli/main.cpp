// The `frspec` binary: its commands, and what becomes of their errors.
#include <exception>
#include <new>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/companion.h"
#include "cli/terminal.h"

namespace frspec {
namespace {

constexpr std::string_view kHelp =
    "Usage: frspec COMMAND [OPTION...]\n"
    "\n"
    "Lossless speculative decoding for GGUF language models.\n"
    "\n"
    "  chat       talk with a model\n"
    "  serve      answer OpenAI's clients over HTTP\n"
    "  generate   continue a prompt, or answer one message\n"
    "  bench      time a model on this machine\n"
    "  tokenize   token ids of a text\n"
    "  inspect    what a GGUF file holds\n"
    "\n"
    "  --version  show the version\n"
    "  --help     show this help; frspec COMMAND --help shows a command's options\n"
    "\n"
    "Begin with\n"
    "  frspec generate -p \"def fibonacci(n):\"     the small models installed with it\n"
    "  frspec chat -m model.gguf -d drafter.gguf  your own; -hf USER/REPO fetches one\n"
    "\n"
    "Beside it: frspec-convert (checkpoints to GGUF), frspec-train (drafters),\n"
    "frspec-rank and frspec-sketch (draft heads), frspec-eval (which drafter pays).\n";

constexpr std::string_view kExpected = "expected chat, serve, generate, bench, tokenize or inspect (see frspec --help)";
constexpr std::string_view kServer =
    "it is the server, and comes with the Python package: pip install 'frspec_cpp[server]'";

int run(std::span<char* const> arguments) {
  if (arguments.empty()) fail("missing command, ", kExpected);
  const std::string_view command = arguments[0];
  const auto rest = arguments.subspan(1);
  if (command == "chat") return chat_command(rest);
  if (command == "serve") become_companion("frspec-serve", kServer, rest);
  if (command == "generate") return generate_command(rest);
  if (command == "bench") return bench_command(rest);
  if (command == "tokenize") return tokenize_command(rest);
  if (command == "inspect") return inspect_command(rest);
  if (command == "--help" || command == "-h") {
    write_output(kHelp);
  } else if (command == "--version") {
    write_output("frspec " FRSPEC_VERSION "\n");
  } else {
    fail("unknown command ", quoted(command), ", ", kExpected);
  }
  return 0;
}

}  // namespace
}  // namespace frspec

int main(int argc, char** argv) {
  frspec::ignore_broken_pipe();
  frspec::explain_bus_error();
  try {
    return frspec::run({argv + (argc > 0 ? 1 : 0), argv + argc});
  } catch (const frspec::OutputClosed&) {
    return 0;
  } catch (const frspec::Interrupted&) {
    frspec::write_note("interrupted");
    return frspec::kInterruptedExit;
  } catch (const std::bad_alloc&) {
    frspec::write_note("error: out of memory");
  } catch (const std::exception& error) {
    frspec::write_note(frspec::concat("error: ", frspec::printable(error.what())));
  }
  return 1;
}
