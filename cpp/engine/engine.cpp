// The draft-verify loop.
#include "engine/engine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "draft/no_drafter.h"
#include "engine/adapt.h"
#include "engine/make_tuner.h"
#include "engine/memory_plan.h"

namespace frspec {
namespace {

// Points of a step whose times are noted.
enum StepTime : int { kStart, kTold, kDrafted, kVerified, kStepTimes };
static_assert(kPosts * kStepTimes <= kTimePoints);

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
  if (options.context == 0) return std::min(config.context, kDefaultContext);
  if (options.context < 2 || options.context > config.context) {
    fail("context: found ", options.context, " tokens, expected 2 to ", config.context, ", the length ",
         options.target.string(), " was trained for");
  }
  return options.context;
}

// Of all tensors: what loading will report in the end.
std::size_t weight_bytes(const GgufFile& file) {
  std::size_t total = 0;
  for (const GgufTensor& tensor : file.tensors()) total += tensor.bytes;
  return total;
}

}  // namespace

KvType parse_kv_type(std::string_view name) {
  if (name == "f16") return KvType::F16;
  if (name == "q8_0") return KvType::Q8_0;
  fail("type of the K/V cache: found '", name, "', expected f16 or q8_0");
}

DraftMode parse_draft_mode(std::string_view name) {
  if (name == "auto") return DraftMode::Auto;
  if (name == "always") return DraftMode::Always;
  if (name == "never") return DraftMode::Never;
  if (name == "sparse") return DraftMode::Sparse;
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
    case FinishReason::None:
      break;
  }
  return "";
}

Engine::Engine(const EngineOptions& options) : options_(options), file_(GgufFile::open(options.target)) {
  check_drafter_options(options);
  if (options.batch < 1 || options.batch > 1 << 16) {
    fail("batch: found ", options.batch, " tokens, expected 1 to ", 1 << 16);
  }
  const ModelConfig config = read_causal_config(*file_);
  context_ = choose_context(options, config);
  batch_ = std::min(options.batch, context_);
  taps_ = static_cast<int>(options.taps.size());
  backend_ = make_backend(options.backend);
  head_clock_ = std::make_unique<HeadClock>(*backend_, kPosts * kStepTimes, kTimePoints);
  tokenizer_ = Tokenizer::load(*file_);

  const bool drafts = options.drafter.has_value();
  if (drafts) {
    drafter_file_ = GgufFile::open(*options.drafter);
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
                     .kv = options.kv_type};
  place(limits, taps, config);
  target_ = std::make_unique<CausalModel>(file_, *backend_, limits, taps, on_bytes);
  if (target_->config().vocab != tokenizer_->size()) {
    fail(file_->path().string(), ": tensor 'token_embd.weight': found ", target_->config().vocab,
         " rows, expected one per token, ", tokenizer_->size());
  }
  if (drafts || options.ngram > 0) make_drafting(options_.head, on_bytes);
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
  const int fits = fit_context(plan, request, options_.context != 0);
  if (fits < context_) {
    limits.context = context_ = fits;
    batch_ = std::min(batch_, context_);
    plan.context = fits;
  }
  plan_ = plan;
  if (options_.on_plan) options_.on_plan(plan);
}

Engine::Lock::Lock(Engine& engine) : engine_(engine) {
  if (engine.owner_.load() == std::this_thread::get_id()) {
    nested_ = engine.calibrates_;
    if (nested_) return;
    throw Error("this engine is writing a text: a logits processor cannot use the model that it is called for");
  }
  engine.mutex_.lock();
  engine.owner_.store(std::this_thread::get_id());
}

Engine::Lock::~Lock() {
  if (nested_) return;
  engine_.owner_.store(std::thread::id());
  engine_.mutex_.unlock();
}

void Engine::make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes) {
  ChoiceHead* choice = nullptr;
  auto drafter = make_drafter(options_, head,
                              {*backend_, *target_, tokenizer_, drafter_file_, context_, batch_, on_bytes, &choice,
                               adaptive_, head_clock_.get()});
  TreeShape tree = options_.tree;
  tree.size = std::min(tree.size, tree_bounds(options_).size);
  auto tuner = make_tuner(*backend_, *drafter, choice, head, tree);
  // Only now: where something failed, all stays as it was.
  drafter_ = std::move(drafter);
  tuner_ = std::move(tuner);
  choice_ = choice;
  calibrated_ = false;
}

void Engine::set_head(const std::string& head) {
  if (!drafter_file_) fail("head: found ", head, ", but there is no drafter to use it");
  check_adapt(options_, parse_head_spec(head));
  const Lock lock(*this);
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
  target_->cache().set_length(0);
}

void Engine::set_count(std::int32_t count) { backend_->upload(count_.as<void>(), &count, sizeof count); }

void Engine::run_chunk(std::span<const TokenId> tokens) {
  backend_->upload(ids_.as<void>(), tokens.data(), tokens.size_bytes());
  target_->forward(ids_.as<std::int32_t>(),
                   Rows{.count = static_cast<int>(tokens.size()), .prefix = target_->cache().length()});
}

std::unique_ptr<Generation> Engine::begin(std::vector<TokenId> prompt, const GenerateOptions& options) {
  if (prompt.empty()) fail("prompt: found no tokens, expected at least one");
  if (prompt.size() >= static_cast<std::size_t>(context_)) {
    fail("prompt: found ", prompt.size(), " tokens, expected at most ", context_ - 1, ": the context holds ", context_);
  }
  if (options.max_tokens < 1) fail("max_tokens: found ", options.max_tokens, ", expected at least 1");
  if (options.min_tokens < 0 || options.min_tokens > options.max_tokens) {
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
  if (options_.drafter && options_.ngram > 0) {
    fail("verify: found rejection sampling with n-grams beside a drafter, expected one of them alone, or 'keyed'");
  }
  if (options_.drafter && options_.tree.branch != 1) {
    fail("verify: rejection sampling works on chains: found tree_branch ", options_.tree.branch, ", expected 1");
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

// A drafter may be slow or wrong, but it may not end a text: if it fails, the text goes on without.
template <class Use>
void Engine::with_drafter(Generation& text, Use&& use) {
  if (text.options_.draft == DraftMode::Never || !drafter_ || !text.stats_.drafter_error.empty()) return;
  try {
    use(*drafter_);
  } catch (const std::exception& error) {
    text.stats_.drafter_error = error.what();
  }
}

// The prompt, chunk by chunk, through target and drafter. The drafter's pair at a position needs the token that
// follows, which for the prompt's last position is the first token of the text.
bool Engine::read_prompt(Generation& text) {
  const std::vector<TokenId> prompt = text.tokens_;  // the text grows when its first token is taken
  const auto batch = static_cast<std::size_t>(batch_);
  if (tuner_) tuner_->begin_text();
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
    if (text.keep_going_ && !text.keep_going_()) return false;
    const auto chunk = std::span(prompt).subspan(first, std::min(batch, prompt.size() - first));
    const int rows = static_cast<int>(chunk.size());
    run_chunk(chunk);
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
  return true;
}

// What the drafter has not been told yet, because it was not asked to draft: the last tokens, and the target's states.
void Engine::tell_drafter(Generation& text) {
  auto& lag = text.lag_;
  if (lag.rows == 0) return;
  backend_->upload(next_ids_.as<void>(), lag.next.data(), lag.next.size() * sizeof(TokenId));
  set_count(lag.rows);
  const Tensor features = lag_features_.matrix(lag.rows, target_->feature_dim());
  with_drafter(text, [&](Drafter& drafter) {
    drafter.accept({lag.rows, count_.as<std::int32_t>(), features, next_ids_.as<std::int32_t>(), lag.tokens,
                    lag.next.back(), lag.candidates});
  });
  lag = {};
}

void Engine::remember_for_drafter(Generation& text, const TreeView& tree, const VerdictView& verdict,
                                  std::span<const TokenId> tokens) {
  if (text.options_.draft == DraftMode::Never || !drafter_) return;
  auto& lag = text.lag_;
  const auto rows = static_cast<int>(tokens.size()) - 1;
  if (lag.rows + rows > lag_room()) tell_drafter(text);
  const Tensor room = lag_features_.matrix(lag_room(), target_->feature_dim()).row_range(lag.rows, rows);
  backend_->gather_rows(room, target_->features(tree.size), verdict.nodes);
  lag.rows += rows;
  lag.tokens.insert(lag.tokens.end(), tokens.begin(), tokens.end() - 1);
  lag.next.insert(lag.next.end(), tokens.begin() + 1, tokens.end());
  const std::span<const TokenId> candidates = verifier_->candidates();
  lag.candidates.insert(lag.candidates.end(), candidates.begin(), candidates.end());
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

// What to draft with in the next step, and whether.
Tuner::Plan Engine::plan_step(const Generation& text) {
  if (text.options_.draft == DraftMode::Never || !drafter_ || !text.stats_.drafter_error.empty()) return {};
  // Rejection sampling draws other numbers with drafts than without, and with others: what a seed gives may not depend
  // on the clock.
  if (text.options_.verify != VerifyMode::Keyed)
    return {.drafts = true, .shape = static_cast<int>(tuner_->shapes().size()) - 1};
  const std::int64_t step = text.stats_.steps;
  if (text.options_.draft == DraftMode::Sparse && (step & (step + 1)) != 0) return {};
  return tuner_->next(text.options_.draft == DraftMode::Auto);
}

Tuning Engine::tuning() const {
  const Tuner::Choice choice = tuner_->choice();
  const TreeShape& tree = tuner_->shapes()[static_cast<std::size_t>(choice.plan.shape)];
  return {tuner_->heads()[static_cast<std::size_t>(choice.plan.head)].name,
          tree.depth,
          tree.branch,
          tree.size,
          choice.plan.drafts,
          choice.rho,
          choice.nu,
          choice.kappa,
          choice.tokens_per_second,
          choice.plain_tokens_per_second};
}

// What a tuner learns from the accepted nodes of a tree.
void Engine::note_accepted(Generation& text, const DraftTree& tree, const Verdict& verdict) {
  const TreeView& view = tree.view();
  Tuner::Step& step = text.tuned_;
  step.is_ranked = view.ranks != nullptr && tuner_->shapes().size() > 1;
  for (std::size_t i = 1; i < verdict.nodes.size(); ++i) {
    Tuner::Accepted node;
    if (step.is_ranked) node.rank = verdict.ranks[i - 1];
    if (choice_ != nullptr) node.heads = choice_->holders(verdict.tokens[i - 1]);
    step.accepted.push_back(node);
  }
}

// Gives the device a step to do. `before`: the step whose verdict the host has not seen yet; null: it has seen them
// all.
Engine::Step Engine::begin_step(Generation& text, const Step* before) {
  const std::int32_t* prefix = target_->cache().length();
  Step step;
  step.slot = before != nullptr ? 1 - before->slot : 0;
  const int times = step.slot * kStepTimes;
  step.plan = plan_step(text);
  head_clock_->run(text.options_.trace);
  backend_->note_time(times + kStart);
  if (step.plan.drafts) {
    if (before != nullptr) {
      tell_on_device(text, *before);
    } else {
      tell_drafter(text);
    }
    backend_->note_time(times + kTold);
    with_drafter(text, [&](Drafter& drafter) {
      if (tuner_->shapes().size() > 1) drafter.reshape(tuner_->shapes()[static_cast<std::size_t>(step.plan.shape)]);
      if (choice_ != nullptr) choice_->use(step.plan.head);
      step.tree = &drafter.propose(root_.as<std::int32_t>());
    });
  }
  backend_->note_time(times + kDrafted);
  step.drafted = step.tree != nullptr;
  step.drafted_last = std::exchange(text.drafted_last_, step.drafted);
  if (!step.drafted) step.tree = &no_drafter_->propose(root_.as<std::int32_t>());
  const DraftTree& tree = *step.tree;
  target_->forward(tree.view().tokens, tree.rows(prefix));
  const bool by_rejection = step.drafted && text.options_.verify != VerifyMode::Keyed;
  step.verdict = by_rejection ? &verifier_->verify_by_rejection(tree, text.sampler_, text.rejection_,
                                                                text.options_.verify == VerifyMode::Block)
                 : text.options_.logits_processor
                     ? &verifier_->verify(tree, text.sampler_, text.options_.logits_processor, text.tokens_)
                     : &verifier_->verify(tree, text.sampler_);
  backend_->record(history_.as<std::int32_t>(), prefix, tree.view(), *step.verdict);
  target_->cache().commit(*step.verdict);
  backend_->take_last(root_.as<std::int32_t>(), *step.verdict);
  backend_->note_time(times + kVerified);
  verifier_->post(step.slot);
  return step;
}

// Whether the next step may begin before this one's verdict is seen: it hides what the host does between two steps, on
// a device that works by itself. Nothing that the host decides may depend on the verdict, and the next step must be
// wanted whatever it says, but for the end of the text.
bool Engine::may_go_ahead(const Generation& text, const Step& step) const {
  const GenerateOptions& options = text.options_;
  if (!plan_ || host_backend_ || options.verify != VerifyMode::Keyed || options.logits_processor || options.logprobs ||
      options.trace) {
    return false;
  }
  if (options.draft != DraftMode::Never && drafter_ && text.stats_.drafter_error.empty()) {
    const bool fixed = options.draft == DraftMode::Always && tuner_->shapes().size() == 1 && choice_ == nullptr;
    if (!fixed || !drafter_->follows_device() || options_.states || !step.drafted) return false;
  }
  const int most = step.tree->view().max_depth + 1;
  return options.max_tokens - text.stats_.generated_tokens > most &&
         static_cast<int>(text.tokens_.size()) + 2 * most < context_;
}

// Tells the drafter of a verdict that only the device knows.
void Engine::tell_on_device(Generation& text, const Step& before) {
  const TreeView& tree = before.tree->view();
  const int rows = tree.max_depth + 1;
  auto* memory = path_.as<std::int32_t>();
  const PathView path{memory, memory + rows, memory + 2 * rows};
  backend_->fill_path(path, rows, *before.verdict);
  const Tensor features = lag_features_.matrix(rows, target_->feature_dim());
  backend_->gather_rows(features, target_->features(tree.size), path.nodes);
  with_drafter(text, [&](Drafter& drafter) {
    drafter.accept(
        {.rows = rows, .count = before.verdict->count, .features = features, .next = path.tokens, .last = path.last});
  });
}

void Engine::run_step(Generation& text) {
  Stats& stats = text.stats_;
  text.rejection_ = {text.options_.sampling.seed, static_cast<std::uint32_t>(stats.steps)};
  text.tuned_.begin();
  const Step step = text.ahead_ ? *text.ahead_ : begin_step(text, nullptr);
  text.ahead_.reset();
  if (may_go_ahead(text, step)) text.ahead_ = begin_step(text, &step);
  const DraftTree& tree = *step.tree;
  text.tuned_.plan = step.drafted ? step.plan : Tuner::Plan{.planned = step.plan.planned && !step.plan.drafts};
  const Verdict& read = verifier_->read(step.slot);
  const auto seconds = [&](StepTime first, StepTime second) {
    return backend_->seconds_between(step.slot * kStepTimes + first, step.slot * kStepTimes + second);
  };
  double draft_seconds = 0.0;
  if (step.plan.drafts) {
    const double told = seconds(kStart, kTold), grown = seconds(kTold, kDrafted);
    // What a drafter missed while it was not asked is no cost of this step's drafts.
    (step.drafted_last ? text.tuned_.draft_seconds : text.tuned_.catch_up_seconds) += told;
    text.tuned_.draft_seconds += grown;
    draft_seconds = told + grown;
    stats.draft_seconds += draft_seconds;
  }
  const double verify_seconds = seconds(kDrafted, kVerified);
  stats.verify_seconds += verify_seconds;
  const int rows = static_cast<int>(read.tokens.size());
  text.take(read.tokens);
  if (text.options_.trace) trace_step(text, step, read, draft_seconds, verify_seconds);
  if (step.drafted) note_accepted(text, tree, read);
  ++stats.steps;
  stats.drafted_steps += step.drafted ? 1 : 0;
  stats.step_tokens += static_cast<std::int64_t>(text.fresh_.size()) + (text.ended_by_token_ ? 1 : 0);
  if (text.options_.logprobs) {
    const Tensor hidden = committed_.matrix(rows, target_->config().dim);
    backend_->gather_rows(hidden, target_->hidden(tree.size()), step.verdict->nodes);
    add_logprobs(text, hidden, step.verdict->tokens);
  }
  if (text.finish_ != FinishReason::None || text.ahead_) return;
  // The text ends with the token that the target has not processed yet: the next root.
  remember_for_drafter(text, tree.view(), *step.verdict, std::span(text.tokens_).last(text.fresh_.size() + 1));
}

}  // namespace frspec
