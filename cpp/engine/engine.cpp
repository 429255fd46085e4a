// Loading an engine, and what stands around the steps of a sequence.
#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/machine.h"
#include "base/text.h"
#include "engine/memory_plan.h"
#include "engine/step_times.h"

namespace frspec {
namespace {

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

// Bytes of the keys and values of so many tokens.
double kv_bytes(Backend& backend, const ModelConfig& config, const ModelLimits& limits, std::int64_t tokens) {
  const KvShape shape{limits.kv, config.kv_heads, config.head_dim, pages_for(tokens) * kPageSlots};
  return 2.0 * static_cast<double>(backend.kv_bytes(shape)) * config.attention_layers();
}

// Room in host memory for further sequences and what ended ones leave, as a share of a context's: another one for each
// that may run, within a quarter of what the machine has free. Nothing is taken before it is used.
double host_spare(Backend& backend, const ModelConfig& config, const ModelLimits& limits) {
  const double bytes = kv_bytes(backend, config, limits, limits.context);
  const std::size_t available = available_memory();
  return available == 0 ? 1.0 : std::min<double>(limits.places, 0.25 * static_cast<double>(available) / bytes);
}

// The same where a user says what keys and values may take. `plan`: of a device with memory of its own.
// `weights`: bytes that are still to be read into the host's.
double chosen_spare(std::size_t memory, Backend& backend, const ModelConfig& config, const ModelLimits& limits,
                    const std::optional<MemoryPlan>& plan, std::size_t weights) {
  constexpr double kMostPages = std::numeric_limits<int>::max() / kPageSlots;
  const double page = kv_bytes(backend, config, limits, kPageSlots);
  const double pages = std::floor(static_cast<double>(memory) / page);
  const int least = pages_for(std::int64_t{limits.context} + limits.tree);
  if (pages < least) {
    fail("kv_memory: found ", format_bytes(memory), ", expected at least ",
         format_bytes(static_cast<std::size_t>(least * page)), ", what keys and values of one text of ", limits.context,
         " tokens (n_ctx) take");
  }
  const double spare = (pages - least + 0.5) / pages_for(limits.context);  // half a page that is cut off again
  const double wanted = plan ? (1.0 + spare) * static_cast<double>(plan->caches()) : pages * page;
  const std::size_t available = available_memory();
  const std::size_t free = plan ? plan->room() : available > weights ? available - weights : available;
  if ((free > 0 && wanted > static_cast<double>(free)) || pages > kMostPages) {
    throw OutOfMemory(concat("kv_memory: found ", format_bytes(memory), ", for which the caches take ",
                             format_bytes(static_cast<std::size_t>(wanted)), ", expected at most ", format_bytes(free),
                             ", which are free"));
  }
  return spare;
}

// Copies of recurrent states for the same: a few texts and turns, within an eighth of what the device has free.
int state_copies(Backend& backend, const ModelConfig& config) {
  constexpr std::size_t kMost = 16;
  if (config.recurrent_layers() == 0) return 0;
  const bool own = backend.capabilities().own_memory;
  const std::size_t available = own ? backend.instruments().memory().free : available_memory();
  return static_cast<int>(available == 0 ? kMost : std::min(kMost, available / 8 / config.state_bytes()));
}

void check_own_drafter(const GgufFile& file, const ModelConfig& config) {
  if (config.nextn > 0) return;
  fail(file.path().string(), ": key '", config.style.name, ".nextn_predict_layers': found 0, expected 1: drafter '",
       kOwnDrafter, "' is the nextn block in the target's own file, which files named *-MTP.gguf have");
}

}  // namespace

Engine::Engine(const EngineOptions& options) : options_(options), file_(GgufFile::open(options.target, options.files)) {
  check_drafter_options(options);
  if (options.batch < 1 || options.batch > 1 << 16) {
    fail("batch: found ", options.batch, " tokens, expected 1 to ", 1 << 16);
  }
  const int parallel = options.parallel.value_or(1);
  if (parallel < 1 || parallel > kMaxParallel) {
    fail("n_parallel: found ", parallel, " texts, expected 1 to ", kMaxParallel);
  }
  if (options.step_ms < 0) fail("step_ms: found ", options.step_ms, ", expected at least 0");
  check_rope_options(options.rope);
  ModelConfig config = read_causal_config(*file_);
  apply(options.rope, config);
  context_ = choose_context(options, config);
  batch_ = std::min(options.batch, context_);
  backend_ = make_backend(options.backend);
  tokenizer_ = Tokenizer::load(*file_);

  const bool drafts = options.drafter.has_value();
  if (drafts) {
    if (*options.drafter == kOwnDrafter) {
      check_own_drafter(*file_, config);
      options_.drafter = options.target;
    }
    brings_drafter_ = *options_.drafter == options.target && config.nextn > 0;
    drafter_file_ = brings_drafter_ ? file_ : GgufFile::open(*options_.drafter, options.files);
    if (options.adapt) ranks_ = std::make_shared<RankKeeper>(options_, tokenizer_, *drafter_file_);
  }
  const std::size_t total = weight_bytes(*file_) + (drafts && !brings_drafter_ ? weight_bytes(*drafter_file_) : 0);
  std::size_t done = 0;
  const auto on_bytes = [&](std::size_t bytes) {
    done += bytes;
    if (options.on_load) options.on_load(done, total);
  };
  const auto [max_size, max_depth] = tree_bounds(options);
  max_size_ = max_size;
  max_depth_ = max_depth;
  const int behind = drafts ? drafter_slots(options_, *drafter_file_) : 0;
  const ModelTaps taps{options.taps, drafts ? drafter_taps(*drafter_file_, config) : std::vector<int>{}};
  const int places = most_places(options, parallel);
  ModelLimits limits{.context = context_,
                     .places = places,
                     .rows = std::max({batch_, max_size, places}),
                     .logit_rows = std::clamp(max_size, kLogitRows, kMaxLogitRows),
                     .tree = std::max(max_size, behind),
                     .depth = max_depth,
                     .states = state_copies(*backend_, config),
                     .ahead = behind > 0 ? kDrafterAhead : 0,
                     .kv = options.kv_type,
                     .rope = options.rope,
                     .head_on_host = options.head_on_host};
  const bool own_memory = backend_->capabilities().own_memory;
  if (own_memory) plan_memory(limits, taps);
  if (options.kv_memory) {
    spare_ = chosen_spare(*options.kv_memory, *backend_, config, limits, memory_plan_, total);
  } else if (!own_memory) {
    spare_ = host_spare(*backend_, config, limits);
  }
  if (options.spare) spare_ = *options.spare;
  limits.spare_pages = spare_pages(spare_, context_);
  target_ = std::make_unique<CausalModel>(file_, *backend_, limits, taps, on_bytes);
  check_embedding_rows(*file_, target_->config().vocab, *tokenizer_);
  runner_ = std::make_unique<TargetRunner>(*backend_, *target_, batch_, max_depth);
  for (int number = 0; number < places; ++number) {
    places_.emplace_back(number, DraftTree::with_room(*backend_, max_size, max_depth));
  }
  place_ = places_.data();
  for (auto* scratch : {&cut_tokens_, &cut_parents_}) scratch->reserve(static_cast<std::size_t>(max_size_));
  if (drafts || ngram_of(options) > 0) make_drafting(options_.head, on_bytes);
  all_pages_ = target_->pages()->pool().size();
  chaos_ = Chaos::from_environment();
  target_->pages()->disturb(chaos_.get());
  on_bytes(total - done);  // of what is not a weight
  if (!options.on_warning) return;
  bool told = false;  // of a file that is both
  for (const std::shared_ptr<const GgufFile>& file : {file_, drafter_file_}) {
    if (!file || (brings_drafter_ && std::exchange(told, true))) continue;
    for (const std::string& warning : file->warnings()) options.on_warning(warning);
  }
}

Engine::~Engine() = default;

// On a device with memory of its own: how long a context has room.
void Engine::plan_memory(ModelLimits& limits, const ModelTaps& taps) {
  const MemoryPlanRequest request{options_, *backend_, file_, drafter_file_, tokenizer_, limits, taps};
  MemoryPlan plan = frspec::plan_memory(request);
  const int fits = fit_context(plan, request, options_.context.has_value());
  if (fits < context_) {
    limits.context = context_ = fits;
    batch_ = std::min(batch_, context_);
    plan.context = fits;
  }
  // Half of what is left, up to another context for each sequence, is for others and what ended ones leave.
  const std::size_t left = plan.free > plan.bytes() ? plan.free - plan.bytes() : 0;
  if (plan.caches() > 0) {
    spare_ = std::min<double>(limits.places, static_cast<double>(left / 2) / static_cast<double>(plan.caches()));
  }
  memory_plan_ = plan;
  if (options_.on_plan) options_.on_plan(plan);
}

void Engine::make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes) {
  const DrafterParts parts{.backend = *backend_,
                           .target = *target_,
                           .tokenizer = tokenizer_,
                           .file = drafter_file_,
                           .context = context_,
                           .batch = batch_,
                           .spare = spare_,
                           .places = target_->limits().places,
                           .on_bytes = on_bytes};
  auto drafting = std::make_unique<Drafting>(options_, head, DraftingParts{parts, kEngineTimes, ranks_});
  const std::string about =
      concat(processor_name(), "; ", backend_->description(), "; target ", identity_of(*file_), "; drafter ",
             drafter_file_ ? identity_of(*drafter_file_) : "none", "; ngram ", ngram_of(options_), "; cache ",
             static_cast<int>(options_.kv_type), "; tree ", options_.tree ? "fixed" : "auto");
  auto planner = std::make_unique<Planner>(drafting->arms(), options_, about);
  // Only now: where something failed, all stays as it was.
  drafting_ = std::move(drafting);
  planner_ = std::move(planner);
  calibrated_ = false;
  tuned_.reserve(static_cast<std::size_t>(tree_bounds(options_).size));
  runner_->verifier().note_candidates(drafting_->drafter().wanted_candidates());
}

// One call at a time. A call from inside another, as a logits processor might make, would wait for itself: an error.
std::unique_lock<OwnedMutex> Engine::lock() {
  if (mutex_.is_mine()) {
    throw Error("this engine is writing a text: a logits processor cannot use the model that it is called for");
  }
  return std::unique_lock(mutex_);
}

EngineParts Engine::parts() { return {lock(), options_, *tokenizer_, *backend_, *runner_, drafting_.get()}; }

EngineParts Engine::take_over() {
  EngineParts parts = this->parts();
  leave_all();
  use(*place_);
  runner_->take_over();
  taken_over_ = true;
  return parts;
}

void Engine::set_head(const std::string& head) {
  if (!drafter_file_) fail("head: found ", head, ", but there is no drafter to use it");
  const auto held = lock();
  make_drafting(head, {});
  for (Place& place : places_) drop(place);  // the new drafter knows nothing of them, nor of what is in the caches
}

void Engine::save_ranks() {
  const auto held = lock();
  if (!ranks_) fail("save_ranks: found an engine whose ranks do not adapt, expected the option adapt");
  ranks_->save();
}

// Rejection sampling is for chains that one drafter proposes.
void Engine::check_verify_mode(const GenerateOptions& options) const {
  if (options.verify == VerifyMode::Keyed) return;
  if (ranks_) {
    // There the drafts are a part of what a seed gives, and they would depend on all texts before.
    fail("verify: found rejection sampling and ranks that adapt (", options_.adapt->string(),
         "), with which a seed would give one text today and another one tomorrow; expected 'keyed'");
  }
  if (options.logits_processor) fail("verify: found rejection sampling and a logits processor, expected 'keyed'");
  if (options.grammar) fail("verify: found rejection sampling and a grammar, expected 'keyed'");
  if (!drafting_) return;
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
  std::sort(held.begin(), held.end());
  held.erase(std::unique(held.begin(), held.end()), held.end());
  return held;
}

std::unique_ptr<Sequence> Engine::begin(std::vector<TokenId> prompt, const GenerateOptions& options) {
  auto sequence = std::make_unique<Sequence>(tokenizer_, file_->path().string(), context_, std::move(prompt), options);
  check_verify_mode(options);
  const auto held = lock();
  (void)sampler_of(*sequence, nullptr);  // which checks what only the model knows
  if (planner_ && !calibrated_ && options.draft != DraftMode::Never) calibrate();
  if (drafting_) sequence->stats().ranks = drafting_->ranks_source();
  return sequence;
}

// `history`: its tokens on the device.
Sampler Engine::sampler_of(const Sequence& sequence, const std::int32_t* history) const {
  const GenerateOptions& options = sequence.options();
  const std::int64_t prompt = sequence.stats().prompt_tokens;
  SamplingOptions sampling = options.sampling;
  if (chaos_ && chaos_->plants("seed")) sampling.seed += static_cast<std::uint64_t>(order_.size() > 1);
  return {*backend_,
          sampling,
          target_->config().vocab,
          history,
          context_,
          held_tokens(options),
          options.min_tokens > 0 ? prompt + options.min_tokens : 0};
}

std::span<const GeneratedToken> Engine::step(Sequence& sequence) {
  sequence.begin_step();
  if (sequence.finish_reason() != FinishReason::None) return {};
  const auto held = lock();
  if (sequence.error()) throw Error("this generation cannot go on: an earlier step of it has failed");
  order_.assign(1, sequence.id());
  leave_ahead();
  if (chaos_) disturb();
  if (!guard(sequence, [&] { advance(sequence); })) std::rethrow_exception(sequence.error());
  note_pages();
  return sequence.fresh();
}

void Engine::note_pages() {
  const SequencePages& pages = *target_->pages();
  held_pages_ = pages.held();
  kept_pages_ = pages.kept();
}

// What is told of a step once it is over, and of a sequence that it ended.
void Engine::close_step(Sequence& sequence) {
  Stats& stats = sequence.stats();
  const bool ended = sequence.finish_reason() != FinishReason::None;
  if (ended && planner_) {
    stats.tuning = planner_->found();
    planner_->keep();
  }
  if (ended) end(sequence);
  if (!ranks_ || !counts_) return;
  std::vector<TokenId> written;
  for (const GeneratedToken& token : sequence.fresh()) written.push_back(token.id);
  ranks_->count(written);
  if (ended) stats.adapt_error = ranks_->save_if_due();
}

}  // namespace frspec
