// Reading the command lines of `frspec generate` and `frspec chat`.
#include "cli/request.h"

#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "cli/option_arguments.h"
#include "cli/terminal.h"

namespace frspec {
namespace {

void add_chat(Arguments& options, Request& request, const char* system_help) {
  options.option("-sys, --system, --system-prompt", "TEXT", request.system, system_help);
  options.begin("More of chats", true);
  options.option("-sysf, --system-file, --system-prompt-file", "FILE", request.system_file, "a file that holds it");
  options.option("--chat-template", "TEXT", request.chat_template.text,
                 "another template: a Jinja program, or the name of one in the model's file");
  options.option("--chat-template-file", "FILE", request.chat_template.file, "another template, in a file");
  options.option("--chat-template-kwargs", "JSON", request.chat_template.variables,
                 "variables of the template: {\"enable_thinking\": false}");
}

void add_prompt(Arguments& options, Request& request, Command command) {
  if (command == Command::Chat) {
    options.option("-p, --prompt", "TEXT", request.prompt, "what you say first");
    add_chat(options, request, "what the model is told before");
  } else {
    options.option("-p, --prompt", "TEXT", request.prompt, "the prompt");
    options.option("-f, --file", "FILE", request.file, "a file with the prompt; - is standard input");
    options.option("--token-file, --ids", "FILE", request.token_file, "a file with the prompt's token ids");
    options.flag("--chat", request.chat, "the prompt is a message: the model answers it");
    add_chat(options, request, "with --chat: what the model is told before");
    options.begin("More of prompts", true);
    options.flag("--no-parse-special", request.parse_special,
                 "read the text of control tokens (<|im_start|>) letter by letter", false);
  }
  options.flag("-e, --escape", request.escape, "\\n, \\t ... in -p and --stop are what they stand for; the default");
  options.flag("--no-escape", request.escape, "they are what they are", false);
}

void apply_rope_scale(Request& request) {
  float& scale = request.engine.rope.freq_scale;
  if (!request.rope_scale) return;
  if (scale != 0.0f) fail("--rope-scale and --rope-freq-scale: found both, expected one of them");
  if (!(*request.rope_scale > 0.0f)) fail("--rope-scale: found ", *request.rope_scale, ", expected a number above 0");
  scale = 1.0f / *request.rope_scale;
}

void add_options(Arguments& options, Request& request, Command command) {
  options.begin("Models");
  request.files.add_model(options, "GGUF file of the model; without: the demo pair");
  request.files.add_drafter(options, "GGUF file of its drafter; without: plain decoding");
  request.files.add_hub(options, true);
  options.begin(command == Command::Chat ? "Chat" : "Prompt");
  add_prompt(options, request, command);
  options.begin("Text");
  add_options(options, request, OptionGroup::Text);
  options.begin("Drafts (the text is the same with any, and without)");
  add_options(options, request, OptionGroup::Drafts);
  options.flag("--show-drafts", request.show_drafts, "colour the tokens that were drafted and accepted");
  options.begin("Machine and output");
  add_options(options, request, OptionGroup::Machine);
  if (command == Command::Generate) options.flag("--json", request.json, "one JSON object: text, tokens, stats ...");
  request.files.add_more(options);
  options.begin("More of texts", true);
  add_options(options, request, OptionGroup::MoreText);
  options.begin("More of drafts (docs/heads.md, docs/eagle.md)", true);
  add_options(options, request, OptionGroup::MoreDrafts);
  options.flag("--no-draft", request.no_draft, "--draft never");
  options.begin("Long contexts", true);
  add_options(options, request, OptionGroup::LongContexts);
  options.option("--rope-scale", "N", request.rope_scale,
                 "stretches the context N times; linear without --rope-scaling");
  options.begin("More of the machine", true);
  add_options(options, request, OptionGroup::MoreMachine);
}

Arguments arguments_of(Command command) {
  if (command == Command::Chat) {
    return {"frspec chat -m TARGET [-d DRAFTER] [OPTION...]",
            "Talks with a model by its chat template, which the Python package renders.\n"
            "Ctrl-C stops an answer, and at the prompt ends the program. A backslash at the\n"
            "end of a line continues it on the next. /help shows the commands, as /clear."};
  }
  return {"frspec generate [-m TARGET] [-d DRAFTER] [-p TEXT | -f FILE] [OPTION...]",
          "Continues a prompt: the text on standard output, statistics on standard error.\n"
          "Without -p and -f the prompt is read from standard input."};
}

void check_prompt(const Request& request) {
  if (request.token_file && (request.prompt || request.file)) {
    fail("--token-file and -p, --prompt or -f, --file: found both, expected one of them");
  }
  if (request.token_file && request.chat) fail("--token-file and --chat: found both, expected one of them");
  if (request.system && request.system_file) fail("--system and --system-file: found both, expected one of them");
  const ChatTemplateChoice& choice = request.chat_template;
  if (choice.text && choice.file) {
    fail("--chat-template and --chat-template-file: found both, expected one of them");
  }
  const bool about_chats = request.system || request.system_file || choice.text || choice.file || choice.variables;
  if (about_chats && !request.chat) {
    fail("--system and --chat-template: found no --chat, expected it beside them (or the command chat)");
  }
  if (request.chat && !request.parse_special) {
    fail("--chat and --no-parse-special: found both, expected one of them: templates write control tokens");
  }
}

}  // namespace

bool read_request(Request& request, Command command, std::span<char* const> arguments) {
  request.chat = command == Command::Chat;
  if (request.chat) request.generate.max_tokens = kUntilFull;
  Arguments options = arguments_of(command);
  add_options(options, request, command);
  if (!options.parse(arguments)) {
    write_output(options.help());
    return false;
  }
  check_prompt(request);
  if (request.generate.logprobs && !request.json) fail("--logprobs: found no --json, expected both");
  if (request.json && request.show_drafts) fail("--json and --show-drafts: found both, expected one of them");
  const bool says = options.given("--draft");
  if (says && request.no_draft) fail("--draft and --no-draft: found both, expected one of them");
  if (request.no_draft) request.generate.draft = DraftMode::Never;
  // Who wants to see drafts wants drafts.
  if (request.show_drafts && !says && !request.no_draft) request.generate.draft = DraftMode::Always;
  apply_rope_scale(request);
  if (request.escape) {
    if (request.prompt) request.prompt = unescaped(*request.prompt);
    if (request.system) request.system = unescaped(*request.system);
    for (std::string& text : request.generate.stop) text = unescaped(text);
  }
  ModelFiles::Paths paths = request.files.find();
  request.engine.target = std::move(paths.target);
  request.engine.drafter = std::move(paths.drafter);
  request.settle();
  return true;
}

std::unique_ptr<Engine> load_engine(Request& request) {
  const auto progress = std::make_shared<ProgressLine>();  // the engine keeps its options
  request.engine.on_plan = [](const MemoryPlan& plan) {
    write_note(
        concat("memory: ", describe(plan), ": ", format_bytes(plan.bytes()), " of ", format_bytes(plan.free), " free"));
  };
  request.engine.on_load = [progress](std::size_t done, std::size_t total) {
    progress->show(concat("loading: ", 100 * done / total, " %"));
  };
  request.engine.on_warning = [progress](const std::string& warning) {
    progress->clear();
    write_warning(warning);
  };
  auto engine = std::make_unique<Engine>(request.engine);
  progress->clear();
  return engine;
}

std::optional<std::string> system_prompt(const Request& request) {
  return request.system_file ? std::optional(read_prompt({}, request.system_file)) : request.system;
}

}  // namespace frspec
