// Reading the command lines of `frspec generate` and `frspec chat`.
#include "cli/request.h"

#include <charconv>
#include <random>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "cli/terminal.h"
#include "cli/tree_arguments.h"

namespace frspec {
namespace {

// "ID+BIAS" or "ID-BIAS", as llama.cpp writes it.
std::pair<TokenId, float> parse_bias(const std::string& text) {
  std::pair<TokenId, float> bias{};
  const char* end = text.data() + text.size();
  const auto [after_id, bad_id] = std::from_chars(text.data(), end, bias.first);
  const bool plus = after_id != end && *after_id == '+';
  const bool signed_value = plus || (after_id != end && *after_id == '-');
  const auto [after, bad] = std::from_chars(plus ? after_id + 1 : after_id, end, bias.second);
  if (bad_id != std::errc() || !signed_value || bad != std::errc() || after != end) {
    fail("--logit-bias: found ", quoted(text), ", expected a token id, + or -, and a number: 15043+1 or 15043-1");
  }
  return bias;
}

void add_chat(Arguments& options, Request& request, const char* system_help) {
  options.text("-sys, --system, --system-prompt", "TEXT", request.system, system_help);
  options.begin("More of chats", true);
  options.text("-sysf, --system-file, --system-prompt-file", "FILE", request.system_file, "a file that holds it");
  options.text("--chat-template", "TEXT", request.chat_template.text,
               "another template: a Jinja program, or the name of one in the model's file");
  options.text("--chat-template-file", "FILE", request.chat_template.file, "another template, in a file");
  options.text("--chat-template-kwargs", "JSON", request.chat_template.variables,
               "variables of the template: {\"enable_thinking\": false}");
}

void add_prompt(Arguments& options, Request& request, Command command) {
  if (command == Command::Chat) {
    options.text("-p, --prompt", "TEXT", request.prompt, "what you say first");
    add_chat(options, request, "what the model is told before");
  } else {
    options.text("-p, --prompt", "TEXT", request.prompt, "the prompt");
    options.text("-f, --file", "FILE", request.file, "a file with the prompt; - is standard input");
    options.text("--token-file, --ids", "FILE", request.token_file, "a file with the prompt's token ids");
    options.flag("--chat", request.chat, "the prompt is a message: the model answers it");
    add_chat(options, request, "with --chat: what the model is told before");
    options.begin("More of prompts", true);
    options.flag("--no-parse-special", request.parse_special,
                 "read the text of control tokens (<|im_start|>) letter by letter", false);
  }
  options.flag("-e, --escape", request.escape, "\\n, \\t ... in -p and --stop are what they stand for; the default");
  options.flag("--no-escape", request.escape, "they are what they are", false);
}

void add_text(Arguments& options, Request& request) {
  SamplingOptions& s = request.generate.sampling;
  const int limit = request.generate.max_tokens;
  options.number("-n, --max-tokens, --n-predict, --predict", "MAX", request.generate.max_tokens,
                 concat("-1: to the context's end; default: ", limit));
  options.number("--temp, --temperature", "T", s.temperature, "default: 0, the most probable token");
  options.number("--top-k", "K", s.top_k, concat("only the K most probable; 0: all; default: ", s.top_k));
  options.number("--top-p", "P", s.top_p, concat("the best that hold P together; default: ", s.top_p));
  options.number("-s, --seed", "S", request.seed, "seed of sampling; -1: a random one; default: 0");
  options.repeated("-r, --stop, --reverse-prompt", "TEXT", request.generate.stop, "ends the text; may be repeated");
}

void add_more_of_texts(Arguments& options, Request& request, Command command) {
  SamplingOptions& s = request.generate.sampling;
  options.begin("More of texts", true);
  options.number("--min-p", "P", s.min_p, concat("only tokens at least P times the best; default: ", s.min_p));
  options.number("--typical, --typical-p", "P", s.typical_p,
                 concat("locally typical sampling; default: ", s.typical_p));
  options.number("--dynatemp-range", "R", s.dynatemp_range, "temperature +- R, by the entropy; default: 0");
  options.number("--dynatemp-exp", "E", s.dynatemp_exponent, "exponent of the dynamic temperature; default: 1");
  options.number("--repeat-penalty", "X", s.repeat_penalty, "divides the logits of recent tokens; default: 1");
  options.number("--frequency-penalty", "X", s.frequency_penalty, "subtracted for each occurrence; default: 0");
  options.number("--presence-penalty", "X", s.presence_penalty, "subtracted from recent tokens; default: 0");
  options.number("--repeat-last-n", "N", s.repeat_last_n,
                 concat("tokens that are recent, -1: all; default: ", s.repeat_last_n));
  options.repeated("-l, --logit-bias", "ID+BIAS", request.biases, "adds to a token's logit: 15043+1, 29871-inf");
  options.number("--min-tokens", "MIN", request.generate.min_tokens, "nothing ends the text before; default: 0");
  options.flag("--ignore-eos", request.generate.ignore_eos, "go on after an end-of-generation token");
  options.flag("--no-reuse, --no-cache-prompt", request.generate.reuse,
               "read every prompt anew, whatever earlier texts have left", false);
  if (command == Command::Generate) {
    options.number("--logprobs", "N", request.generate.logprobs,
                   "with --json: log-probabilities of each token and of N best ones");
  }
}

void add_more_of_drafts(Arguments& options, Request& request) {
  options.begin("More of drafts (docs/heads.md, docs/eagle.md)", true);
  options.text("--head", "POLICY", request.engine.head, "rows to draft from: full, ranked:N ...; default: auto");
  options.text("--ranks", "FILE", request.ranks, "token ranks; default: those in the drafter's file");
  options.text("--sketch", "FILE", request.sketch, "sketch of the head; default: the one in the drafter's file");
  options.text("--adapt", "FILE", request.adapt, "token ranks that follow what is written; made if absent");
  options.text("--translate", "auto|tli|slem|slrs", request.engine.translate,
               "how a drafter of another vocabulary is understood; default: auto");
  add_tree(options, request.tree);
  options.text("--verify", "keyed|rejection|block", request.verify, "how drafts are verified; default: keyed");
  options.flag("--no-draft", request.no_draft, "--draft never");
}

void add_machine(Arguments& options, Request& request) {
  options.begin("More of the machine", true);
  options.number("-b, --batch-size", "N", request.engine.batch,
                 concat("prompt tokens per pass; default: ", request.engine.batch));
  options.text("--cache-type", "f16|q8_0|f32", request.cache, "type of the K/V cache; default: f16");
  options.flag("--no-mmap", request.no_mmap, "read the models into memory: their files may change then");
  options.flag("--head-on-host", request.engine.head_on_host,
               "leave the head in host memory, from where a GPU reads it");
}

void add_rope(Arguments& options, Request& request) {
  RopeOptions& rope = request.engine.rope;
  options.begin("Long contexts", true);
  options.text("--rope-scaling", "none|linear|yarn", request.rope_scaling,
               "how positions are stretched for long contexts; default: the model's");
  options.number("--rope-scale", "N", request.rope_scale,
                 "stretches the context N times; linear without --rope-scaling");
  options.number("--rope-freq-base", "N", rope.freq_base, "base of the rotary frequencies; default: the model's");
  options.number("--rope-freq-scale", "N", rope.freq_scale, "1 / --rope-scale");
  options.number("--yarn-orig-ctx", "N", rope.original_context,
                 "tokens the model was trained for before stretching; default: the model's");
  options.number("--yarn-ext-factor", "X", rope.extrapolation,
                 "0: stretch fast pairs, too; default: by --rope-scaling");
  options.number("--yarn-attn-factor", "X", rope.attention_factor, "multiplies cos and sin; default: the model's");
  options.number("--yarn-beta-fast", "X", rope.beta_fast, "turns of pairs that are not stretched; default: 32");
  options.number("--yarn-beta-slow", "X", rope.beta_slow, "turns of pairs that are stretched wholly; default: 1");
}

void take_rope(Request& request) {
  RopeOptions& rope = request.engine.rope;
  if (request.rope_scaling) rope.scaling = parse_rope_scaling(*request.rope_scaling);
  if (!request.rope_scale) return;
  if (rope.freq_scale != 0.0f) fail("--rope-scale and --rope-freq-scale: found both, expected one of them");
  if (!(*request.rope_scale > 0.0f)) fail("--rope-scale: found ", *request.rope_scale, ", expected a number above 0");
  rope.freq_scale = 1.0f / *request.rope_scale;
}

void add_options(Arguments& options, Request& request, Command command) {
  options.begin("Models");
  request.files.add_model(options, "GGUF file of the model; without: the demo pair");
  request.files.add_drafter(options, "GGUF file of its drafter; without: plain decoding");
  request.files.add_hub(options, true);
  options.begin(command == Command::Chat ? "Chat" : "Prompt");
  add_prompt(options, request, command);
  options.begin("Text");
  add_text(options, request);
  options.begin("Drafts (the text is the same with any, and without)");
  options.text("--draft", "auto|always|never", request.draft, "default: auto, as long as it pays");
  options.number("--ngram", "N", request.engine.ngram, "what followed the last N tokens; default with -d: 8");
  options.flag("--show-drafts", request.show_drafts, "colour the tokens that were drafted and accepted");
  options.begin("Machine and output");
  options.number("-c, --ctx-size", "N", request.engine.context,
                 concat("context; 0: the model's; default: at most ", kDefaultContext));
  options.number("-t, --threads", "N", request.engine.backend.threads, "CPU threads; default: -1, one per core");
  options.text("--device", "DEVICE", request.engine.backend.device,
               "cpu, cuda or cuda:N; default: FRSPEC_DEVICE, or cpu");
  if (command == Command::Generate) {
    options.flag("--json", request.json, "one JSON object: text, tokens, stats ...");
  }
  request.files.add_more(options);
  add_more_of_texts(options, request, command);
  add_more_of_drafts(options, request);
  add_rope(options, request);
  add_machine(options, request);
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
  request.engine.head = "auto";
  request.engine.ngram = std::nullopt;
  request.chat = command == Command::Chat;
  if (request.chat) request.generate.max_tokens = kUntilFull;
  Arguments options = arguments_of(command);
  add_options(options, request, command);
  if (!options.parse(arguments)) {
    write_output(options.help());
    return false;
  }
  check_prompt(request);
  for (const std::string& bias : request.biases) request.generate.sampling.logit_bias.push_back(parse_bias(bias));
  if (request.generate.logprobs && !request.json) fail("--logprobs: found no --json, expected both");
  if (request.json && request.show_drafts) fail("--json and --show-drafts: found both, expected one of them");
  request.engine.kv_type = parse_kv_type(request.cache);
  request.generate.verify = parse_verify_mode(request.verify);
  if (request.draft && request.no_draft) fail("--draft and --no-draft: found both, expected one of them");
  // Who wants to see drafts wants drafts.
  request.generate.draft = request.draft         ? parse_draft_mode(*request.draft)
                           : request.no_draft    ? DraftMode::Never
                           : request.show_drafts ? DraftMode::Always
                                                 : DraftMode::Auto;
  take_rope(request);
  request.generate.sampling.seed = request.seed ? *request.seed : std::random_device()();
  if (request.escape) {
    if (request.prompt) request.prompt = unescaped(*request.prompt);
    if (request.system) request.system = unescaped(*request.system);
    for (std::string& text : request.generate.stop) text = unescaped(text);
  }
  ModelFiles::Paths paths = request.files.find();
  request.engine.target = std::move(paths.target);
  request.engine.drafter = std::move(paths.drafter);
  request.engine.files.map = !request.no_mmap;
  request.engine.tree = request.tree.shape();
  request.engine.ranks = request.ranks;
  request.engine.sketch = request.sketch;
  request.engine.adapt = request.adapt;
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
