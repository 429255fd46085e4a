// `frspec generate`.
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/demo_pair.h"
#include "cli/terminal.h"
#include "cli/tree_arguments.h"
#include "engine/engine.h"

namespace frspec {
namespace {

constexpr std::string_view kDraftedColor = "\x1b[30;42m";  // black on green: readable whatever the terminal's colours
constexpr std::string_view kPlainColor = "\x1b[0m";

struct Request {
  std::optional<std::string> model, drafter, ranks, sketch, adapt, prompt, file, draft;
  EngineOptions engine;
  GenerateOptions generate;
  std::vector<std::string> biases;
  std::string verify = "keyed";
  std::string cache = "f16";
  TreeChoice tree;
  bool no_draft = false;
  bool json = false;
  bool show_drafts = false;
};

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

void add_sampling(Arguments& options, Request& request) {
  SamplingOptions& s = request.generate.sampling;
  options.number("--temp, --temperature", "T", s.temperature, "temperature; default: 0, the most probable token");
  options.number("--top-k", "K", s.top_k, concat("only the K most probable tokens, 0: all; default: ", s.top_k));
  options.number("--top-p", "P", s.top_p, concat("only the most probable that hold P together; default: ", s.top_p));
  options.number("--min-p", "P", s.min_p, concat("only those at least P times the best; default: ", s.min_p));
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
  options.number("-s, --seed", "S", s.seed, "seed of sampling; default: 0");
  options.repeated("-r, --reverse-prompt, --stop", "TEXT", request.generate.stop, "ends the text; may be repeated");
  options.number("--min-tokens", "MIN", request.generate.min_tokens, "nothing ends the text before; default: 0");
  options.number("--logprobs", "N", request.generate.logprobs,
                 "with --json: log-probabilities of each token and of N best ones");
}

// Returns false where the help was asked for, and shown.
bool read_arguments(Request& request, std::span<char* const> arguments) {
  request.engine.head = "auto";
  Arguments options("frspec generate [-m TARGET] [-d DRAFTER] [-p TEXT | -f FILE] [OPTION...]",
                    "Continues a prompt; the text goes to standard output, statistics to standard error.\n"
                    "Without -m: the demo pair. Without -p and -f: the prompt is read from standard input.");
  options.text("-m, --model", "TARGET", request.model, "GGUF file of the target model");
  options.text("-d, --drafter", "DRAFTER", request.drafter, "GGUF file of its drafter; none with -m: plain decoding");
  options.text("--ranks", "FILE", request.ranks, "token ranks; default: those in the drafter's file");
  options.text("--sketch", "FILE", request.sketch, "sketch of the head; default: the one in the drafter's file");
  options.text("--adapt", "FILE", request.adapt, "token ranks that follow what is written; made if absent");
  options.text("--head", "POLICY", request.engine.head,
               "rows to draft from: full, ranked:N ... (docs/heads.md); default: auto");
  options.text("--translate", "auto|tli|slem|slrs", request.engine.translate,
               "how a drafter of another vocabulary is understood; default: auto");
  options.number("--ngram", "N", request.engine.ngram,
                 "draft what followed the last N tokens before; default: 0, do not");
  options.text("-p, --prompt", "TEXT", request.prompt, "the prompt");
  options.text("-f, --file", "FILE", request.file, "a file that holds the prompt; - is standard input");
  options.number("-n, --max-tokens, --n-predict, --predict", "MAX", request.generate.max_tokens,
                 concat("tokens to generate at most; default: ", request.generate.max_tokens));
  options.number("-t, --threads", "THREADS", request.engine.backend.threads, "CPU threads; default: one per core");
  options.number("-c, --ctx-size", "CONTEXT", request.engine.context,
                 concat("tokens of prompt and text together; default: the model's, at most ", kDefaultContext));
  add_tree(options, request.tree);
  add_sampling(options, request);
  options.text("--cache-type", "f16|q8_0", request.cache, "type of the K/V cache; default: f16");
  options.text("--device", "DEVICE", request.engine.backend.device,
               "cpu, cuda or cuda:N; default: FRSPEC_DEVICE, or cpu");
  options.number("-ngl, --gpu-layers, --n-gpu-layers", "N", request.engine.gpu_layers,
                 "layers that a GPU keeps, the last ones; default: -1, all");
  options.flag("--head-on-host", request.engine.head_on_host,
               "leave the head in host memory, from where a GPU reads it");
  options.text("--draft", "auto|always|never", request.draft, "auto: as long as it pays; default: auto");
  options.text("--verify", "keyed|rejection|block", request.verify, "how drafts are verified; default: keyed");
  options.flag("--no-draft", request.no_draft, "--draft never: the same tokens, without drafts");
  options.flag("--ignore-eos", request.generate.ignore_eos, "go on after an end-of-generation token");
  options.flag("--json", request.json, "one JSON object: text, tokens, prompt_tokens, finish_reason, stats");
  options.flag("--show-drafts", request.show_drafts, "colour the tokens that were drafted and accepted");
  if (!options.parse(arguments)) {
    write_output(options.help());
    return false;
  }
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
  if (request.model) {
    request.engine.target = *request.model;
    request.engine.drafter = request.drafter;
  } else {
    const DemoPair demo = find_demo_pair();
    request.engine.target = demo.target;
    request.engine.drafter = request.drafter ? std::filesystem::path(*request.drafter) : demo.drafter;
  }
  request.engine.tree = request.tree.shape();
  request.engine.ranks = request.ranks;
  request.engine.sketch = request.sketch;
  request.engine.adapt = request.adapt;
  return true;
}

// What has been generated so far, and its way to the terminal.
class Transcript {
 public:
  explicit Transcript(const Request& request) : stream_(!request.json), color_(request.show_drafts) {}

  void add(std::span<const GeneratedToken> tokens) {
    for (const GeneratedToken& token : tokens) {
      tokens_.push_back(token.id);
      append(token.text, token.drafted);
    }
    show();
  }

  void finish(std::string_view closing) {
    append(closing, false);
    if (stream_ && !text_.empty() && text_.back() != '\n' && isatty(STDOUT_FILENO) != 0) shown_ += '\n';
    show();
  }

  const std::string& text() const { return text_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }

 private:
  void append(std::string_view piece, bool drafted) {
    text_ += piece;
    for (const char c : piece) {
      // A line break stays uncoloured: some terminals would colour the rest of the line.
      set_color(drafted && c != '\n');
      shown_ += c;
    }
  }

  void set_color(bool drafted) {
    if (!color_ || drafted == colored_) return;
    shown_ += drafted ? kDraftedColor : kPlainColor;
    colored_ = drafted;
  }

  void show() {
    set_color(false);  // whatever happens until the next step, the terminal is left as it was
    if (stream_) write_output(shown_);
    shown_.clear();
  }

  bool stream_, color_;
  bool colored_ = false;
  std::string shown_;  // to be written at the end of the step
  std::string text_;
  std::vector<TokenId> tokens_;
};

void write_logprobs(JsonWriter& json, const Transcript& transcript, std::span<const TokenLogprobs> logprobs) {
  json.key("logprobs");
  json.begin_array();
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    json.begin_object();
    json.member("token", transcript.tokens()[i]);
    json.member("logprob", static_cast<double>(logprobs[i].chosen));
    json.key("top");
    json.begin_array();
    for (const auto& [id, value] : logprobs[i].best) {
      json.begin_object();
      json.member("token", id);
      json.member("logprob", static_cast<double>(value));
      json.end_object();
    }
    json.end_array();
    json.end_object();
  }
  json.end_array();
}

void write_tuning(JsonWriter& json, const Tuning& tuning) {
  json.key("tuning");
  json.begin_object();
  json.member("head", std::string_view(tuning.head));
  json.member("translation", std::string_view(tuning.translation));
  json.member("drafts", tuning.drafts);
  json.member("nodes", tuning.nodes);
  json.member("levels", tuning.levels);
  json.member("gain", tuning.gain);
  json.member("cost", tuning.cost);
  json.member("tokens_per_second", tuning.tokens_per_second);
  json.member("plain_tokens_per_second", tuning.plain_tokens_per_second);
  json.member("summary", std::string_view(tuning.summary));
  json.end_object();
}

void write_json(const Transcript& transcript, const Generation& generation, const char* finish_reason,
                bool with_logprobs) {
  const Stats& stats = generation.stats();
  std::ostringstream out;
  JsonWriter json(out);
  json.begin_object();
  json.member("text", std::string_view(transcript.text()));
  json.key("tokens");
  json.begin_array();
  for (const TokenId id : transcript.tokens()) json.value(id);
  json.end_array();
  json.member("prompt_tokens", stats.prompt_tokens);
  json.member("finish_reason", finish_reason);
  if (with_logprobs) write_logprobs(json, transcript, generation.logprobs());
  json.key("stats");
  json.begin_object();
  json.member("tokens_per_second", stats.tokens_per_second());
  json.member("accepted_length", stats.accepted_length());
  json.member("steps", stats.steps);
  json.member("drafted_steps", stats.drafted_steps);
  json.member("draft_seconds", stats.draft_seconds);
  json.member("verify_seconds", stats.verify_seconds);
  json.member("prefill_seconds", stats.prefill_seconds);
  if (!stats.ranks.empty()) json.member("ranks", std::string_view(stats.ranks));
  if (stats.tuning) write_tuning(json, *stats.tuning);
  json.end_object();
  json.end_object();
  out << '\n';
  write_output(out.str());
}

void write_statistics(const Stats& stats, const char* finish_reason, const std::string& device, bool is_auto) {
  std::ostringstream line;
  line.precision(3);
  line << stats.generated_tokens << " tokens (" << finish_reason << "), " << stats.tokens_per_second()
       << " tokens/s, accepted length " << stats.accepted_length() << " over " << stats.steps << " steps; prompt of "
       << stats.prompt_tokens << " tokens " << stats.prefill_seconds << " s, draft " << stats.draft_seconds
       << " s, verify " << stats.verify_seconds << " s; " << device;
  if (!stats.ranks.empty()) line << "; ranks: " << stats.ranks;
  write_note(line.str());
  if (stats.tuning && is_auto) write_note(concat("auto: ", stats.tuning->summary));
  if (!stats.drafter_error.empty()) write_note(concat("the drafter failed, and was left alone: ", stats.drafter_error));
}

}  // namespace

int generate_command(std::span<char* const> arguments) {
  Request request;
  if (!read_arguments(request, arguments)) return 0;
  const std::string prompt = read_prompt(request.prompt, request.file);
  ProgressLine progress;
  request.engine.on_plan = [](const MemoryPlan& plan) {
    write_note(
        concat("memory: ", describe(plan), ": ", format_bytes(plan.bytes()), " of ", format_bytes(plan.free), " free"));
  };
  request.engine.on_load = [&](std::size_t done, std::size_t total) {
    progress.show(concat("loading: ", 100 * done / total, " %"));
  };
  Engine engine(request.engine);
  progress.clear();
  const std::unique_ptr<Generation> generation = engine.begin(engine.tokenizer().encode(prompt), request.generate);
  if (request.show_drafts) {
    write_note(concat(kDraftedColor, "coloured", kPlainColor, ": tokens that were drafted and accepted"));
  }
  catch_interrupt();
  generation->on_progress([] { return !interrupted(); });
  Transcript transcript(request);
  while (generation->finish_reason() == FinishReason::None && !interrupted()) transcript.add(generation->step());
  transcript.finish(generation->closing_text());

  const bool stopped = generation->finish_reason() == FinishReason::None;
  const char* reason = stopped ? "interrupted" : finish_reason_name(generation->finish_reason());
  if (request.json) write_json(transcript, *generation, reason, request.generate.logprobs.has_value());
  if (!request.json) write_statistics(generation->stats(), reason, engine.device(), !request.no_draft);
  if (request.adapt) engine.save_ranks();
  return stopped ? kInterruptedExit : 0;
}

}  // namespace frspec
