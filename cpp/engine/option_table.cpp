#include "engine/option_table.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "base/error.h"
#include "base/text.h"

namespace frspec {
namespace {

using Group = OptionGroup;

template <auto... kMembers>
constexpr auto place() {
  return +[](Choices& choices) -> auto& { return (choices.*....*kMembers); };
}
template <auto... kMembers>
constexpr auto kEngine = place<&Choices::engine, kMembers...>();
template <auto... kMembers>
constexpr auto kGenerate = place<&Choices::generate, kMembers...>();
template <auto kMember>
constexpr auto kSampling = place<&Choices::generate, &GenerateOptions::sampling, kMember>();
template <auto kMember>
constexpr auto kRope = place<&Choices::engine, &EngineOptions::rope, kMember>();

constexpr WordPlace kDraft = {
    [](Choices& choices, std::string_view word) { choices.generate.draft = parse_draft_mode(word); }, "auto"};
constexpr WordPlace kVerify = {
    [](Choices& choices, std::string_view word) { choices.generate.verify = parse_verify_mode(word); }, "keyed"};
constexpr WordPlace kCacheType = {
    [](Choices& choices, std::string_view word) { choices.engine.kv_type = parse_kv_type(word); }, "f16"};
constexpr WordPlace kKvMemory = {
    [](Choices& choices, std::string_view word) { choices.engine.kv_memory = parse_memory("kv_memory", word); }, ""};
constexpr WordPlace kRopeScaling = {
    [](Choices& choices, std::string_view word) { choices.engine.rope.scaling = parse_rope_scaling(word); }, ""};

constexpr auto kOfText = std::to_array<Option>({
    {"max_tokens", "-n, --max-tokens, --n-predict, --predict", "N", Group::Text,
     kGenerate<&GenerateOptions::max_tokens>, "-1: to the context's end", "", "Tokens at most."},
    {"temperature", "--temp, --temperature", "T", Group::Text, kSampling<&SamplingOptions::temperature>,
     "0: the most probable token", "", "Above it tokens are drawn."},
    {"top_k", "--top-k", "K", Group::Text, kSampling<&SamplingOptions::top_k>, "only the K most probable; 0: all"},
    {"top_p", "--top-p", "P", Group::Text, kSampling<&SamplingOptions::top_p>, "the best that hold P together", "",
     "Above 0, at most 1."},
    {"min_p", "--min-p", "P", Group::MoreText, kSampling<&SamplingOptions::min_p>,
     "only tokens at least P times as probable as the best"},
    {"typical_p", "--typical, --typical-p", "P", Group::MoreText, kSampling<&SamplingOptions::typical_p>,
     "locally typical sampling", "",
     "Only the tokens whose information is nearest to the entropy, and that hold this share together; above 0, at most "
     "1 (Meister et al., 2202.00666)."},
    {"dynatemp_range", "--dynatemp-range", "R", Group::MoreText, kSampling<&SamplingOptions::dynatemp_range>,
     "temperature +- R, by the entropy"},
    {"dynatemp_exponent", "--dynatemp-exp", "E", Group::MoreText, kSampling<&SamplingOptions::dynatemp_exponent>,
     "exponent of the dynamic temperature, above 0"},
    {"repeat_penalty", "--repeat-penalty", "X", Group::MoreText, kSampling<&SamplingOptions::repeat_penalty>,
     "divides the logits of recent tokens", "", "Multiplies negative ones; above 0."},
    {"frequency_penalty", "--frequency-penalty", "X", Group::MoreText, kSampling<&SamplingOptions::frequency_penalty>,
     "subtracted for each recent occurrence"},
    {"presence_penalty", "--presence-penalty", "X", Group::MoreText, kSampling<&SamplingOptions::presence_penalty>,
     "subtracted once for each recent token"},
    {"repeat_last_n", "--repeat-last-n", "N", Group::MoreText, kSampling<&SamplingOptions::repeat_last_n>,
     "tokens that are recent; 0: none, -1: all"},
    {"logit_bias", "-l, --logit-bias", "ID+BIAS", Group::MoreText, kSampling<&SamplingOptions::logit_bias>,
     "adds to a token's logit: 15043+1, 29871-inf", "",
     "In Python a dictionary of token ids and what is added to their logits; ``-inf`` forbids a token.",
     "Mapping[int, float] | None"},
    {"logits_processor",
     "",
     "",
     Group::MoreText,
     {},
     "a function that has the last word on the logits",
     "",
     "It is given the token ids so far, int32 (n), and the processed logits, float32 (vocab_size), which are ``-inf`` "
     "where a token is out; it changes them in place or returns others. It must depend on its arguments alone: then "
     "drafted and plain text are the same. It is called for every generated token, in order, and for no other; it "
     "cannot use the LLM that calls it.",
     "LogitsProcessor | None"},
    {"grammar",
     "",
     "",
     Group::MoreText,
     {},
     "what the text may be",
     "",
     "A :class:`Grammar`, or its text in GBNF (llama.cpp's form), or in llguidance's own syntax, where it begins with "
     "``%llguidance``. Needs the extra ``grammar``, like the next two, of which one may be given. The text is the same "
     "with and without a drafter: what the grammar forbids is not verified, and what it forces is drafted by itself.",
     "str | Grammar | None"},
    {"json_schema",
     "",
     "",
     Group::MoreText,
     {},
     "a JSON schema, or its text, that the text follows",
     "",
     "",
     "Mapping[str, Any] | str | bool | None"},
    {"response_format",
     "",
     "",
     Group::MoreText,
     {},
     "OpenAI's form of a schema",
     "",
     "``{\"type\": \"json_object\"}`` for any object, ``{\"type\": \"json_schema\", \"json_schema\": {\"schema\": "
     "...}}``, "
     "``{\"type\": \"text\"}`` for any text.",
     "Mapping[str, Any] | None"},
    {"seed", "-s, --seed", "S", Group::Text, kSampling<&SamplingOptions::seed>, "seed of sampling; -1: a random one",
     "",
     "0 to 2^64 - 1. The same seed gives the same text, with or without a drafter. None is -1: a random one below "
     "2^32, "
     "which ``stats.seed`` tells.",
     "int | None"},
    {"stop", "-r, --stop, --reverse-prompt", "TEXT", Group::Text, kGenerate<&GenerateOptions::stop>,
     "ends the text; may be repeated", "", "In Python a string or several; they are not part of the text.",
     "str | Sequence[str] | None"},
    {"stop_token_ids", "", "", Group::MoreText, kGenerate<&GenerateOptions::stop_tokens>, "token ids that end the text",
     "", "", "Sequence[int] | None"},
    {"min_tokens", "--min-tokens", "N", Group::MoreText, kGenerate<&GenerateOptions::min_tokens>,
     "nothing ends the text before N tokens"},
    {"ignore_eos", "--ignore-eos", "", Group::MoreText, kGenerate<&GenerateOptions::ignore_eos>,
     "go on after an end-of-generation token"},
    {"logprobs", "--logprobs", "N", Group::MoreText, kGenerate<&GenerateOptions::logprobs>,
     "log-probabilities of each token and of N best ones", "none are given",
     "Before the sampler chain and at temperature 1. The binary shows them with --json."},
    {"reuse", "--no-reuse, --no-cache-prompt", "", Group::MoreText, kGenerate<&GenerateOptions::reuse>,
     "read every prompt anew, whatever earlier ones have left", "",
     "Where a prompt begins like earlier texts (the turns of a chat do), what these have left in the cache is used "
     "(``stats.cached_tokens``), and what this one leaves is kept. The text is the same without."},
    {"salt", "", "", Group::MoreText, kGenerate<&GenerateOptions::salt>,
     "texts of different salts share nothing in the cache", "",
     "So the time that one takes tells nothing of the other."},
    {"trace", "", "", Group::MoreText, kGenerate<&GenerateOptions::trace>, "tell of every step what it did and cost",
     "",
     "See :class:`Step`. The tokens are the same; on a GPU it is slower, since no step begins before the last one was "
     "told of."},
    {"cancel",
     "",
     "",
     Group::MoreText,
     {},
     "an event that ends the text with what there is",
     "",
     "Once it is set, from whatever thread, within some milliseconds and a pass; a prompt is left between two layers.",
     "threading.Event | None"},
    {"draft", "--draft", "auto|always|never", Group::Drafts, kDraft, "when to draft; auto: while it pays", "",
     "True is always, False never. The tokens are the same.", "Literal['auto', 'always', 'never'] | bool"},
    {"draft_max", "--draft-max, --draft-n", "N", Group::MoreDrafts,
     kGenerate<&GenerateOptions::limits, &DraftLimits::most>, "drafted tokens of a step, at most; -1: as many as pay",
     "", "0: none."},
    {"draft_min", "--draft-min, --draft-n-min", "N", Group::MoreDrafts,
     kGenerate<&GenerateOptions::limits, &DraftLimits::least>, "where there are fewer, none are verified"},
    {"draft_p_min", "--draft-p-min", "P", Group::MoreDrafts, kGenerate<&GenerateOptions::limits, &DraftLimits::chance>,
     "only drafts of at least this probability", "",
     "That the target says so, too, with all that stands before it in the tree; where trees grow as far as pays."},
    {"prediction", "", "", Group::MoreDrafts, kGenerate<&GenerateOptions::prediction>,
     "what the text is likely to be: drafts are taken from it", "",
     "A text or token ids, of a file that is to be changed a little, for instance. Needs n-grams (``ngram``), which "
     "are "
     "there beside a drafter.",
     "str | Sequence[int] | None"},
    {"verify", "--verify", "keyed|rejection|block", Group::MoreDrafts, kVerify, "how drafts are verified", "",
     "``keyed``: the text of a seed is the same with any drafter. ``rejection`` (2211.17192) and ``block`` "
     "(2403.10444): exact in distribution only, and for chains (``tree_branch=1``); a seed's text depends on the "
     "drafter, and ``draft=\"auto\"`` means always. Offered because published methods are defined by them."},
});

constexpr auto kOfEngine = std::to_array<Option>({
    {"head", "--head", "POLICY", Group::MoreDrafts, kEngine<&EngineOptions::head>,
     "rows to draft from: full, ranked:N ...", "",
     "``auto``: whichever of the following pays best, and trees of the shape that pays best, no larger than asked for; "
     "``full``; ``ranked:N``, the N most frequent tokens; ``learned``, the drafter's own reduced head; "
     "``speculated[:N]``, the N best of a sketch of the head, at every step anew; ``contextual[:N]``, N rows that "
     "follow "
     "the text; or a union such as ``ranked:8192+contextual:1024``."},
    {"contextual", "--no-contextual", "", Group::MoreDrafts, kEngine<&EngineOptions::contextual>,
     "no rows that follow the texts", "",
     "Whether ``head=\"auto\"`` may take rows that follow the texts. All texts that are written at once share them, so "
     "the speed of one tells of the words of others.",
     "bool"},
    {"translate", "--translate", "auto|tli|slem|slrs", Group::MoreDrafts, kEngine<&EngineOptions::translate>,
     "how a drafter of another vocabulary is understood", "",
     "``tli`` takes the tokens that both have, ``slem`` tokenizes again what it writes, ``slrs`` adds up what a "
     "drafter "
     "of characters may write; ``auto``: ``tli`` where both have at least half of the target's tokens.",
     "str"},
    {"ngram", "--ngram", "N", Group::Drafts, kEngine<&EngineOptions::ngram>, "what followed the last N tokens",
     "8 with -d",
     "Drafts from the text itself, too: what followed its last tokens, at most N, when they stood there before. 0: do "
     "not; None: 8 beside a drafter whose trees grow as far as pays (``tree=\"auto\"``), where it costs nothing, else "
     "0. Works with a drafter and without."},
    {"ranks", "--ranks", "FILE", Group::MoreDrafts, kEngine<&EngineOptions::ranks>, "token ranks",
     "those in the drafter's file"},
    {"sketch", "--sketch", "FILE", Group::MoreDrafts, kEngine<&EngineOptions::sketch>, "sketch of the head",
     "the one in the drafter's file"},
    {"adapt", "--adapt", "FILE", Group::MoreDrafts, kEngine<&EngineOptions::adapt>,
     "token ranks that follow what is written; made if absent", "ranks do not change",
     "Saved now and then and at the end (see :meth:`LLM.save_ranks`), and may be shared by several processes. The text "
     "stays what it is without; rejection sampling, where a seed's text would depend on earlier ones, is refused."},
    {"tree", "--tree", "auto|D,B,N", Group::MoreDrafts, place<&Choices::tree, &TreeChoice::word>(),
     "depth, branch, size of the tree", "",
     "``auto``: as far as pays, step by step. ``DEPTH,BRANCH,SIZE``, or in Python these three numbers: trees of a "
     "fixed "
     "shape.",
     "str | tuple[int, int, int]"},
    {"tree_depth", "--tree-depth", "D", Group::MoreDrafts, place<&Choices::tree, &TreeChoice::depth>(),
     "depth of a tree of fixed shape", "5 in such a tree",
     "EAGLE's d: there is one level of drafted tokens more. Each of these three fixes the shape."},
    {"tree_branch", "--tree-branch", "K", Group::MoreDrafts, place<&Choices::tree, &TreeChoice::branch>(),
     "nodes expanded per level", "10 in such a tree", "And children of each: EAGLE's k."},
    {"tree_size", "--tree-size", "N", Group::MoreDrafts, place<&Choices::tree, &TreeChoice::size>(),
     "nodes verified at once", "60 in such a tree", "The last token of the text included: EAGLE's N."},
    {"n_ctx", "-c, --ctx-size", "N", Group::Machine, kEngine<&EngineOptions::context>, "context; 0: the model's",
     "at most 4096", "Tokens that prompt and text may have together; 0: as many as the model was trained for."},
    {"n_batch", "-b, --batch-size", "N", Group::MoreMachine, kEngine<&EngineOptions::batch>, "prompt tokens per pass"},
    {"n_threads", "-t, --threads", "N", Group::Machine, kEngine<&EngineOptions::backend, &BackendOptions::threads>,
     "CPU threads", "-1, one per core", "None, 0 and -1: one per available core."},
    {"cache_type", "--cache-type", "f16|q8_0|f32", Group::MoreMachine, kCacheType, "type of the K/V cache", "",
     "``q8_0`` takes about half the memory and changes the text a little, with and without a drafter alike; ``f32`` is "
     "for comparisons, on the CPU.",
     "str"},
    {"device", "--device", "DEVICE", Group::Machine, kEngine<&EngineOptions::backend, &BackendOptions::device>,
     "cpu, cuda or cuda:N", "FRSPEC_DEVICE, or cpu"},
    {"head_on_host", "--head-on-host", "", Group::MoreMachine, kEngine<&EngineOptions::head_on_host>,
     "leave the head in host memory, from where a GPU reads it", "",
     "In every pass, which is slow: for cards with little memory. Ranked rows for drafting are kept on the GPU all the "
     "same."},
    {"n_parallel", "-np, --parallel", "N", Group::Serving, kEngine<&EngineOptions::parallel>,
     "texts that are written at once, at most", "8",
     "Others wait for their turn. They share the memory for keys and values: that of one context, and of another one "
     "for each text where the machine has it free. A text that finds none waits, or makes room for those that began "
     "before it, and goes on later."},
    {"kv_memory", "--kv-memory", "SIZE", Group::Serving, kKvMemory, "memory for keys and values: 4GiB, 512M, or bytes",
     "that of a context, and of another one for each text in a quarter of what is free",
     "Of the target, in powers of 1024; a drafter's grow with them. At least what one context takes. It is for texts "
     "that are written, and for what ended ones leave to those that begin like them.",
     "str | int | None"},
    {"step_ms", "--step-ms", "MS", Group::Serving, kEngine<&EngineOptions::step_ms>,
     "milliseconds of a pass that reads a prompt while texts are written; 0: 64 tokens of it", "",
     "So long do these texts wait for their next token. A smaller number is a steadier stream, and a later first token "
     "of the prompt. What 16 tokens take, or two passes without any, is taken in any case."},
    {"rope_scaling_type", "--rope-scaling", "none|linear|yarn", Group::LongContexts, kRopeScaling,
     "how positions are stretched for long contexts", "the model's",
     "``yarn`` is 2309.00071. Or llama.cpp's numbers for them, 0 to 2; -1: the model's. This and the next seven are "
     "llama.cpp's; they are the drafter's, too.",
     "Literal['none', 'linear', 'yarn'] | int | None"},
    {"rope_freq_base", "--rope-freq-base", "N", Group::LongContexts, kRope<&RopeOptions::freq_base>,
     "base of the rotary frequencies; 0: the model's", "", "With another one any ``n_ctx`` is taken."},
    {"rope_freq_scale", "--rope-freq-scale", "N", Group::LongContexts, kRope<&RopeOptions::freq_scale>,
     "1 over how much the context is stretched; 0: the model's", "",
     "Qwen2.5's long contexts: ``rope_scaling_type=\"yarn\", rope_freq_scale=1/4, n_ctx=131072``."},
    {"yarn_orig_ctx", "--yarn-orig-ctx", "N", Group::LongContexts, kRope<&RopeOptions::original_context>,
     "tokens it was trained for before stretching; 0: the model's"},
    {"yarn_ext_factor", "--yarn-ext-factor", "X", Group::LongContexts, kRope<&RopeOptions::extrapolation>,
     "0: stretch fast pairs, too; negative: by --rope-scaling", "", "1: fast pairs keep their frequency."},
    {"yarn_attn_factor", "--yarn-attn-factor", "X", Group::LongContexts, kRope<&RopeOptions::attention_factor>,
     "multiplies cos and sin; negative: the model's", "", "Beside YaRN's own ``1 + 0.1 ln(factor)``."},
    {"yarn_beta_fast", "--yarn-beta-fast", "X", Group::LongContexts, kRope<&RopeOptions::beta_fast>,
     "turns of pairs that are not stretched; negative: 32", "", "Or what the file says."},
    {"yarn_beta_slow", "--yarn-beta-slow", "X", Group::LongContexts, kRope<&RopeOptions::beta_slow>,
     "turns of pairs stretched wholly; negative: 1", "", "Or what the file says."},
    {"use_mmap", "--no-mmap", "", Group::MoreMachine, kEngine<&EngineOptions::files, &FileAccess::map>,
     "read the models into memory: their files may change then", "",
     "Files are mapped otherwise, so that processes share them and nothing is read twice. They must not change then: "
     "of "
     "a file that is shortened, the system kills the process (SIGBUS); one that is to be replaced is to be written "
     "beside it and renamed. Read into memory, a model takes as much as its file beside the weights."},
});

template <class T>
constexpr bool kIsNumber = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

}  // namespace

std::span<const Option> generate_options() { return kOfText; }
std::span<const Option> engine_options() { return kOfEngine; }

const Option& find_option(std::string_view name) {
  for (const std::span<const Option> options : {generate_options(), engine_options()}) {
    const auto found = std::find_if(options.begin(), options.end(), [&](const Option& o) { return o.name == name; });
    if (found != options.end()) return *found;
  }
  throw Error(concat("option ", name, ": expected one of the table"));
}

std::string format_choice(const Option& option, Choices& choices) {
  const auto format = [&]<class T>(const T& where) -> std::string {
    if constexpr (std::is_same_v<T, WordPlace>) {
      return std::string(where.usual);
    } else if constexpr (!std::is_same_v<T, std::monostate>) {
      using Value = std::remove_reference_t<decltype(where(choices))>;
      if constexpr (std::is_same_v<Value, std::string> || kIsNumber<Value>) return concat(where(choices));
    }
    return {};
  };
  return option.none.empty() ? std::visit(format, option.place) : "";
}

}  // namespace frspec
