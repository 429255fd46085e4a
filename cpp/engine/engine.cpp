// The draft-verify loop.
#include "engine/engine.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/machine.h"
#include "base/text.h"
#include "draft/no_drafter.h"
#include "engine/adapt.h"
#include "engine/make_tuner.h"
#include "engine/memory_plan.h"

namespace frspec {
namespace {

// Adds the time until its end to a counter.
class Timer {
 public:
  explicit Timer(double& seconds) : seconds_(seconds), start_(Clock::now()) {}
  ~Timer() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& seconds_;
  Clock::time_point start_;
};

int choose_context(const EngineOptions& options, const ModelConfig& config) {
  if (!options.context) return std::min(config.context, kDefaultContext);
  const int context = *options.context;
  if (context == 0) return config.context;
  const int limit = config.context_limit;
  if (context > 1 && context <= limit) return context;
  std::string help;
  if (context > limit) {
    const int factor = 1 + (context - 1) / limit;
    help = concat("; rope scaling stretches it: rope_scaling_type 'yarn', rope_freq_scale 1/", factor,
                  " (--rope-scaling yarn --rope-scale ", factor, ")");
  }
  fail("context: found ", context, " tokens, expected 2 to ", limit, ", the length ", options.target.string(),
       " was trained for", help);
}

// Of all tensors: what loading will report in the end.
std::size_t weight_bytes(const GgufFile& file) {
  std::size_t total = 0;
  for (const GgufTensor& tensor : file.tensors()) total += tensor.bytes;
  return total;
}

}  // namespace

std::optional<TreeShape> TreeChoice::shape() const {
  const bool has_numbers = depth || branch || size;
  if (has_numbers && word != "auto") {
    fail("tree: found ", quoted(word), " beside tree_depth, tree_branch or tree_size, expected one of them");
  }
  TreeShape shape;
  if (has_numbers) {
    shape = {depth.value_or(shape.depth), branch.value_or(shape.branch), size.value_or(shape.size)};
  } else if (word == "auto") {
    return std::nullopt;
  } else {
    const char* at = word.data();
    const char* const end = at + word.size();
    for (int* number : {&shape.depth, &shape.branch, &shape.size}) {
      const auto [after, bad] = std::from_chars(at, end, *number);
      const bool goes_on = number == &shape.size ? after == end : after != end && *after == ',';
      if (bad != std::errc() || !goes_on) {
        fail("tree: found ", quoted(word), ", expected auto or DEPTH,BRANCH,SIZE, as 5,10,60");
      }
      at = after + 1;
    }
  }
  check_tree_shape(shape);
  return shape;
}

KvType parse_kv_type(std::string_view name) {
  if (name == "f16") return KvType::F16;
  if (name == "q8_0") return KvType::Q8_0;
  if (name == "f32") return KvType::F32;
  fail("type of the K/V cache: found '", name, "', expected f16, q8_0 or f32");
}

DraftMode parse_draft_mode(std::string_view name) {
  if (name == "auto") return DraftMode::Auto;
  if (name == "always") return DraftMode::Always;
  if (name == "never") return DraftMode::Never;
  if (name == "sparse") return DraftMode::Sparse;
  if (name == "watch") return DraftMode::Watch;
  fail("draft: found ", quoted(name), ", expected auto, always or never");
}

VerifyMode parse_verify_mode(std::string_view name) {
  if (name == "keyed") return VerifyMode::Keyed;
  if (name == "rejection") return VerifyMode::Rejection;
  if (name == "block") return VerifyMode::Block;
  fail("verify: found ", quoted(name), ", expected keyed, rejection or block");
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::Stop:
      return "stop";
    case FinishReason::Length:
      return "length";
    case FinishReason::Cancelled:
      return "cancelled";
    case FinishReason::None:
      break;
  }
  return "";
}

Engine::Engine(const EngineOptions& options) : options_(options), file_(GgufFile::open(options.target, options.files)) {
  check_drafter_options(options);
  if (options.batch < 1 || options.batch > 1 << 16) {
    fail("batch: found ", options.batch, " tokens, expected 1 to ", 1 << 16);
  }
  check_rope_options(options.rope);
  ModelConfig config = read_causal_config(*file_);
  apply(options.rope, config);
  context_ = choose_context(options, config);
  batch_ = std::min(options.batch, context_);
  taps_ = static_cast<int>(options.taps.size());
  backend_ = make_backend(options.backend);
  head_clock_ = std::make_unique<HeadClock>(*backend_, kEngineTimes, kTimePoints);
  tokenizer_ = Tokenizer::load(*file_);

  const bool drafts = options.drafter.has_value();
  if (drafts) {
    drafter_file_ = GgufFile::open(*options.drafter, options.files);
    adaptive_ = make_adaptive_ranks(options_, tokenizer_, *drafter_file_);
  }
  const std::size_t total = weight_bytes(*file_) + (drafts ? weight_bytes(*drafter_file_) : 0);
  std::size_t done = 0;
  const auto on_bytes = [&](std::size_t bytes) {
    done += bytes;
    if (options.on_load) options.on_load(done, total);
  };
  const auto [max_size, max_depth] = tree_bounds(options);
  max_depth_ = max_depth;
  const ModelTaps taps{options.taps, drafts ? drafter_taps(*drafter_file_, config) : std::vector<int>{}};
  ModelLimits limits{.context = context_,
                     .rows = std::max(batch_, max_size),
                     .logit_rows = std::clamp(max_size, kLogitRows, kMaxLogitRows),
                     .tree = max_size,
                     .depth = max_depth,
                     .kv = options.kv_type,
                     .rope = options.rope};
  place(limits, taps, config);
  target_ = std::make_unique<CausalModel>(file_, *backend_, limits, taps, on_bytes);
  check_embedding_rows(*file_, target_->config().vocab, *tokenizer_);
  if (drafts || ngram_of(options) > 0) make_drafting(options_.head, on_bytes);
  on_bytes(total - done);  // of what is not a weight
  no_drafter_ = std::make_unique<NoDrafter>(*backend_);
  // Room, too, for trees that are only timed: any that fits a pass, as deep as a binary tree of that many nodes.
  verifier_ = std::make_unique<Verifier>(*backend_, *target_, std::max(max_size, batch_), std::max(max_depth, 32));
  if (drafter_) verifier_->note_candidates(drafter_->wanted_candidates());
  const auto ints = [&](int count) {
    return backend_->allocate(sizeof(std::int32_t) * static_cast<std::size_t>(count));
  };
  ids_ = ints(batch_);
  next_ids_ = ints(lag_room());
  root_ = ints(1);
  count_ = ints(1);
  history_ = ints(context_ + max_depth + 1);
  last_depth_ = ints(1);
  path_ = ints(2 * (max_depth + 1) + 1);
  const auto states = [&](int rows, std::int64_t dim) {
    return backend_->allocate(sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(dim));
  };
  committed_ = states(max_depth + 1, target_->config().dim);
  if (drafter_) lag_features_ = states(lag_room(), target_->feature_dim());
  if (!options.on_warning) return;
  for (const std::shared_ptr<const GgufFile>& file : {file_, drafter_file_}) {
    if (!file) continue;
    for (const std::string& warning : file->warnings()) options.on_warning(warning);
  }
}

// On a device with memory of its own: what stays on the host, and how long a context has room.
void Engine::place(ModelLimits& limits, const ModelTaps& taps, const ModelConfig& config) {
  if (options_.gpu_layers < -1) fail("n_gpu_layers: found ", options_.gpu_layers, ", expected -1 (all) or more");
  if (backend_->memory().total == 0) return;
  if (options_.gpu_layers >= 0 && options_.gpu_layers < config.layers) {
    host_backend_ = make_backend({"cpu", options_.backend.threads});
    limits.host = {host_backend_.get(), config.layers - options_.gpu_layers};
  }
  limits.head_on_host = options_.head_on_host;
  const MemoryPlanRequest request{options_, *backend_, file_, drafter_file_, tokenizer_, limits, taps};
  MemoryPlan plan = plan_memory(request);
  const int fits = fit_context(plan, request, options_.context.has_value());
  if (fits < context_) {
    limits.context = context_ = fits;
    batch_ = std::min(batch_, context_);
    plan.context = fits;
  }
  plan_ = plan;
  if (options_.on_plan) options_.on_plan(plan);
}

Engine::Lock::Lock(Engine& engine) : engine_(engine) {
  if (engine.mutex_.is_mine()) {
    nested_ = engine.calibrates_;
    if (nested_) return;
    throw Error("this engine is writing a text: a logits processor cannot use the model that it is called for");
  }
  engine.mutex_.lock();
}

Engine::Lock::~Lock() {
  if (!nested_) engine_.mutex_.unlock();
}

void Engine::make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes) {
  std::string ranks;
  auto drafter = make_drafter(options_, head,
                              {*backend_, *target_, tokenizer_, drafter_file_, context_, batch_, on_bytes, adaptive_,
                               head_clock_.get(), &ranks});
  auto tuner = make_tuner(*backend_, *drafter, head, options_);
  // Only now: where something failed, all stays as it was.
  drafter_ = std::move(drafter);
  tuner_ = std::move(tuner);
  std::string about =
      concat(processor_name(), "; ", backend_->description(), "; target ", identity_of(*file_), "; drafter ",
             drafter_file_ ? identity_of(*drafter_file_) : "none", "; ngram ", ngram_of(options_), "; cache ",
             static_cast<int>(options_.kv_type), "; tree ", options_.tree ? "fixed" : "auto");
  for (const Tuner::Arm& arm : tuner_->arms()) about += concat("; ", arm.translation, " ", arm.head);
  tuning_file_ = std::make_unique<TuningFile>(std::move(about));
  // Trees of a fixed shape are a user's own choice, and soon judged.
  if (options_.tree) tuning_file_.reset();
  if (tuning_file_) {
    if (const auto numbers = tuning_file_->read()) tuner_->restore(*numbers);
  }
  ranks_source_ = ranks;
  calibrated_ = false;
}

void Engine::set_head(const std::string& head) {
  if (!drafter_file_) fail("head: found ", head, ", but there is no drafter to use it");
  check_adapt(options_, parse_head_spec(head));
  const Lock lock(*this);
  backend_->end_loop();
  make_drafting(head, {});
  verifier_->note_candidates(drafter_->wanted_candidates());
  ++ticket_;  // the new drafter knows nothing of a text that is being written
}

void Engine::check_tokens(std::span<const TokenId> tokens) const {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= tokenizer_->size()) {
      fail("prompt: token ", i, ": found id ", tokens[i], ", expected 0 to ", tokenizer_->size() - 1);
    }
  }
}

void Engine::reset() {
  ++ticket_;
  backend_->end_loop();
  target_->cache().set_length(0);
}

void Engine::set_count(std::int32_t count) { backend_->upload(count_.as<void>(), &count, sizeof count); }

bool Engine::run_chunk(std::span<const TokenId> tokens, const std::function<bool()>& keep_going) {
  backend_->upload(ids_.as<void>(), tokens.data(), tokens.size_bytes());
  const Rows rows{.count = static_cast<int>(tokens.size()), .prefix = target_->cache().length()};
  return target_->forward(ids_.as<std::int32_t>(), rows, keep_going);
}

std::unique_ptr<Generation> Engine::begin(std::vector<TokenId> prompt, const GenerateOptions& options) {
  if (prompt.empty()) fail("prompt: found no tokens, expected at least one");
  if (prompt.size() >= static_cast<std::size_t>(context_)) {
    fail("prompt: found ", prompt.size(), " tokens, expected at most ", context_ - 1, ": the context holds ", context_);
  }
  const bool until_full = options.max_tokens == kUntilFull || options.max_tokens == kUntilContextFilled;
  if (options.max_tokens < 1 && !until_full) {
    fail("max_tokens: found ", options.max_tokens, ", expected at least 1, or -1 for as many as the context holds");
  }
  if (options.min_tokens < 0 || (options.min_tokens > options.max_tokens && !until_full)) {
    fail("min_tokens: found ", options.min_tokens, ", expected 0 to ", options.max_tokens, ", max_tokens");
  }
  if (options.logprobs && (*options.logprobs < 0 || *options.logprobs > kMaxLogprobs)) {
    fail("logprobs: found ", *options.logprobs, ", expected 0 to ", kMaxLogprobs);
  }
  for (const TokenId id : options.stop_tokens) {
    if (id < 0 || id >= tokenizer_->size()) {
      fail("stop_token_ids: found id ", id, ", expected 0 to ", tokenizer_->size() - 1);
    }
  }
  check_tokens(prompt);
  check_sampling(options.sampling);
  check_verify_mode(options);
  const Lock lock(*this);
  if (tuner_ && !calibrated_ && options.draft != DraftMode::Never) calibrate();
  Sampler sampler(*backend_, options.sampling, target_->config().vocab, history_.as<std::int32_t>(), context_,
                  held_tokens(options),
                  options.min_tokens > 0 ? static_cast<std::int64_t>(prompt.size()) + options.min_tokens : 0);
  std::unique_ptr<Generation> text(new Generation(*this, std::move(prompt), options));
  text->sampler_ = std::move(sampler);
  text->stats_.ranks = ranks_source_;
  if (options.logprobs) {
    text->best_memory_ = backend_->allocate(4 * (2 * static_cast<std::size_t>(*options.logprobs) + 1));
  }
  reset();
  text->ticket_ = ticket_;
  return text;
}

// Rejection sampling is for chains that one drafter proposes.
void Engine::check_verify_mode(const GenerateOptions& options) const {
  if (options.verify == VerifyMode::Keyed) return;
  if (adaptive_) {
    // There the drafts are a part of what a seed gives, and they would depend on all texts before.
    fail("verify: found rejection sampling and ranks that adapt (", options_.adapt->string(),
         "), with which a seed would give one text today and another one tomorrow; expected 'keyed'");
  }
  if (options.logits_processor) fail("verify: found rejection sampling and a logits processor, expected 'keyed'");
  if (!drafter_) return;
  if (options_.drafter && (!options_.tree || options_.tree->branch != 1)) {
    fail("verify: rejection sampling works on chains: found ",
         options_.tree ? concat("tree_branch ", options_.tree->branch) : "tree 'auto'",
         ", expected a fixed tree of branch 1, as tree '5,1,7'");
  }
  if (options_.drafter && ngram_of(options_) > 0) {
    fail("verify: found rejection sampling with n-grams beside a drafter, expected one of them alone, or 'keyed'");
  }
  if (max_depth_ + 1 > target_->limits().logit_rows) {
    fail("verify: rejection sampling: found trees of up to ", max_depth_, " levels, expected at most ",
         target_->limits().logit_rows - 1, ": a smaller tree_depth or a larger tree_size");
  }
}

// Tokens that would end the text, and are held back for its first min_tokens.
std::vector<TokenId> Engine::held_tokens(const GenerateOptions& options) const {
  if (options.min_tokens == 0) return {};
  std::vector<TokenId> held = options.stop_tokens;
  for (TokenId id = 0; id < tokenizer_->size() && !options.ignore_eos; ++id) {
    if (tokenizer_->is_end_of_generation(id)) held.push_back(id);
  }
  return held;
}

void Engine::add_logprobs(Generation& text, Tensor hidden, const std::int32_t* tokens) {
  if (!text.options_.logprobs) return;
  const int vocab = target_->config().vocab;
  const auto k = static_cast<std::size_t>(std::min(*text.options_.logprobs, vocab));
  auto* device_ids = text.best_memory_.as<std::int32_t>();
  auto* device_values = text.best_memory_.as<float>() + k;
  auto* device_chosen = device_values + k;
  std::vector<std::int32_t> ids(k);
  std::vector<float> values(k);
  for (std::size_t row = 0; row < text.fresh_.size(); ++row) {
    const Tensor logits = target_->logits(hidden.row_range(static_cast<std::int64_t>(row), 1));
    TokenLogprobs found;
    backend_->log_probs(device_chosen, logits, tokens + row);
    backend_->download(&found.chosen, device_chosen, sizeof found.chosen);
    if (k > 0) {
      backend_->top_k(device_ids, device_values, static_cast<int>(k), logits, nullptr);
      backend_->download(ids.data(), device_ids, k * sizeof ids[0]);
      backend_->download(values.data(), device_values, k * sizeof values[0]);
    }
    for (std::size_t i = 0; i < k; ++i) found.best.emplace_back(ids[i], values[i]);
    text.logprobs_.push_back(std::move(found));
  }
}

// The prompt, chunk by chunk, through target and drafter. The drafter's pair at a position needs the token that
// follows, which for the prompt's last position is the first token of the text.
bool Engine::read_prompt(Generation& text) {
  const std::vector<TokenId> prompt = text.tokens_;  // the text grows when its first token is taken
  const auto batch = static_cast<std::size_t>(batch_);
  if (tuner_) tuner_->begin_text(text.options_.sampling.temperature > 0.0f);
  const std::int64_t replaced = adaptive_ ? adaptive_->replaced() : 0;
  double begin_seconds = 0.0;
  with_drafter(text, [&](Drafter& drafter) {
    const Timer timer(begin_seconds);
    drafter.begin({&text.sampler_.chain(), text.sampler_.draw(), target_->cache().length(),
                   text.options_.verify == VerifyMode::Keyed ? nullptr : &text.rejection_});
  });
  if (adaptive_) {
    text.stats_.adapted_rows = adaptive_->replaced() - replaced;
    text.stats_.adapt_seconds = begin_seconds;
  }
  backend_->upload(history_.as<void>(), prompt.data(), prompt.size() * sizeof(TokenId));
  for (std::size_t first = 0; first < prompt.size(); first += batch) {
    const auto chunk = std::span(prompt).subspan(first, std::min(batch, prompt.size() - first));
    const int rows = static_cast<int>(chunk.size());
    if (!run_chunk(chunk, [&] { return text.goes_on(); })) return false;
    set_count(rows);
    target_->cache().advance(count_.as<std::int32_t>());
    std::vector<TokenId> next(prompt.begin() + static_cast<std::ptrdiff_t>(first) + 1,
                              prompt.begin() + static_cast<std::ptrdiff_t>(first + chunk.size()));
    if (first + chunk.size() < prompt.size()) {
      next.push_back(prompt[first + chunk.size()]);
    } else {
      next.push_back(first_token(text, rows));
    }
    backend_->upload(next_ids_.as<void>(), next.data(), next.size() * sizeof(TokenId));
    with_drafter(text, [&](Drafter& drafter) {
      drafter.accept(
          {rows, count_.as<std::int32_t>(), target_->features(rows), next_ids_.as<std::int32_t>(), chunk, next.back()});
    });
  }
  with_drafter(text, [&](Drafter& drafter) { drafter.extend(text.tokens_); });
  return true;
}

TokenId Engine::first_token(Generation& text, int rows) {
  constexpr std::int32_t kLastOfPrefix = -1;
  backend_->upload(last_depth_.as<void>(), &kLastOfPrefix, sizeof kLastOfPrefix);
  const Rows last{.count = 1, .prefix = target_->cache().length(), .depth = last_depth_.as<std::int32_t>()};
  TokenId token = -1;
  if (text.options_.logits_processor) {
    token = verifier_->sample_one(last, rows - 1, ids_.as<std::int32_t>(), text.sampler_,
                                  text.options_.logits_processor, text.tokens_);
  } else {
    const std::int32_t* sampled = verifier_->sample(last, rows - 1, ids_.as<std::int32_t>(), text.sampler_);
    backend_->download(&token, sampled, sizeof token);
  }
  backend_->upload(root_.as<void>(), &token, sizeof token);
  text.take(std::array{token});
  add_logprobs(text, target_->hidden(rows).row_range(rows - 1, 1), root_.as<std::int32_t>());
  return token;
}

}  // namespace frspec
