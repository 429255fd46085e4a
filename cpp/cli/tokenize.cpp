// `frspec tokenize` and `frspec inspect`.
#include <iomanip>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/text.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/inspect.h"
#include "cli/model_files.h"
#include "cli/terminal.h"
#include "gguf/gguf_file.h"
#include "tokenizer/tokenizer.h"

namespace frspec {
namespace {

void write_json(std::ostream& out, const Tokenizer& tokenizer, const std::vector<TokenId>& tokens) {
  JsonWriter json(out);
  json.begin_object();
  json.key("tokens");
  json.begin_array();
  for (const TokenId id : tokens) json.value(id);
  json.end_array();
  json.key("pieces");
  json.begin_array();
  for (const TokenId id : tokens) json.value(tokenizer.token_text(id));
  json.end_array();
  json.end_object();
  out << '\n';
}

void write_lines(std::ostream& out, const Tokenizer& tokenizer, const std::vector<TokenId>& tokens) {
  for (const TokenId id : tokens) out << std::setw(6) << id << "  " << quoted(tokenizer.token_text(id)) << '\n';
}

}  // namespace

int tokenize_command(std::span<char* const> arguments) {
  ModelFiles files;
  std::optional<std::string> prompt, file;
  bool escape = true, no_special = false, parse_special = true, as_json = false;
  Arguments options("frspec tokenize [-m TARGET] [-p TEXT | -f FILE] [OPTION...]",
                    "Prints the token ids of a text, each with the token as the vocabulary writes it.\n"
                    "Without -m: the vocabulary of the demo pair. Without -p and -f the text is read\n"
                    "from standard input.");
  files.add_model(options, "GGUF file with a vocabulary; it needs no weights");
  files.add_hub(options, false);
  files.add_more(options);
  options.begin("Text");
  options.option("-p, --prompt", "TEXT", prompt, "the text");
  options.option("-f, --file", "FILE", file, "a file that holds the text, less a last line end; - is standard input");
  options.flag("-e, --escape", escape, "\\n, \\t ... in -p are what they stand for; the default");
  options.flag("--no-escape", escape, "they are what they are", false);
  options.flag("--no-special", no_special, "no beginning-of-sequence token, nor any other that the text does not hold");
  options.flag("--no-parse-special", parse_special,
               "read the text of control tokens (<|im_start|>) letter by letter; generate reads them as tokens", false);
  options.flag("--parse-special", parse_special, "the default");
  options.flag("--json", as_json, "one JSON object: tokens (ids), pieces (as the vocabulary writes them)");
  if (!options.parse(arguments)) {
    write_output(options.help());
    return 0;
  }
  if (escape && prompt) prompt = unescaped(*prompt);
  const auto vocabulary = GgufFile::open(files.find().target);
  const auto tokenizer = Tokenizer::load(*vocabulary);
  for (const std::string& warning : vocabulary->warnings()) write_warning(warning);
  const std::vector<TokenId> tokens = tokenizer->encode(read_prompt(prompt, file), !no_special, parse_special);
  std::ostringstream out;
  as_json ? write_json(out, *tokenizer, tokens) : write_lines(out, *tokenizer, tokens);
  write_output(out.str());
  return 0;
}

int inspect_command(std::span<char* const> arguments) {
  std::string path;
  bool as_json = false;
  Arguments options("frspec inspect FILE [--json]",
                    "Prints the metadata and the tensors of a GGUF file, and whether it would run:\n"
                    "if not, why. All checks of loading but those of the weights' values.");
  options.positional("FILE", path, "GGUF file, or the first part of a split one");
  options.flag("--json", as_json, "one JSON object");
  if (!options.parse(arguments)) {
    write_output(options.help());
    return 0;
  }
  std::ostringstream out;
  print_inspection(out, GgufFile::open(path), as_json);
  write_output(out.str());
  return 0;
}

}  // namespace frspec
