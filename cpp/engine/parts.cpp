#include "engine/parts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/machine.h"
#include "base/text.h"
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

void check_bounds(const EngineOptions& options) {
  check_drafter_options(options);
  if (options.batch < 1 || options.batch > 1 << 16) {
    fail("batch: found ", options.batch, " tokens, expected 1 to ", 1 << 16);
  }
  if (const int parallel = options.parallel.value_or(1); parallel < 1 || parallel > kMaxParallel) {
    fail("n_parallel: found ", parallel, " texts, expected 1 to ", kMaxParallel);
  }
  if (options.step_ms < 0) fail("step_ms: found ", options.step_ms, ", expected at least 0");
  check_rope_options(options.rope);
}

}  // namespace

EngineParts::EngineParts(const EngineOptions& given) : options(given), file(GgufFile::open(given.target, given.files)) {
  check_bounds(options);
  ModelConfig config = read_causal_config(*file);
  apply(options.rope, config);
  context = choose_context(options, config);
  batch = std::min(options.batch, context);
  backend = make_backend(options.backend);
  tokenizer = Tokenizer::load(*file);
  const bool drafts = options.drafter.has_value();
  if (drafts) open_drafter(config);
  const std::size_t total = weight_bytes(*file) + (drafts && drafter_file != file ? weight_bytes(*drafter_file) : 0);
  std::size_t done = 0;
  const auto on_bytes = [&](std::size_t bytes) {
    done += bytes;
    if (options.on_load) options.on_load(done, total);
  };
  const TreeBounds bounds = tree_bounds(options);
  max_size = bounds.size;
  max_depth = bounds.depth;
  const int behind = drafts ? drafter_slots(options, *drafter_file) : 0;
  const ModelTaps taps{options.taps, drafts ? drafter_taps(*drafter_file, config) : std::vector<int>{}};
  const int places = most_places(options, options.parallel.value_or(1));
  ModelLimits limits{.context = context,
                     .places = places,
                     .rows = std::max({batch, max_size, places}),
                     .logit_rows = std::clamp(max_size, kLogitRows, kMaxLogitRows),
                     .tree = std::max(max_size, behind),
                     .depth = max_depth,
                     .states = state_copies(*backend, config),
                     .ahead = behind > 0 ? kDrafterAhead : 0,
                     .kv = options.kv_type,
                     .rope = options.rope,
                     .head_on_host = options.head_on_host};
  const bool own_memory = backend->capabilities().own_memory;
  if (own_memory) plan_memory(limits, taps);
  if (options.kv_memory) {
    spare = chosen_spare(*options.kv_memory, *backend, config, limits, memory_plan, total);
  } else if (!own_memory) {
    spare = host_spare(*backend, config, limits);
  }
  if (options.spare) spare = *options.spare;
  limits.spare_pages = spare_pages(spare, context);
  target = std::make_unique<CausalModel>(file, *backend, limits, taps, on_bytes);
  check_embedding_rows(*file, target->config().vocab, *tokenizer);
  runner = std::make_unique<TargetRunner>(*backend, *target, batch, max_depth);
  if (drafts || ngram_of(options) > 0) make_drafting(options.head, on_bytes);
  chaos = Chaos::from_environment();
  target->pages()->disturb(chaos.get());
  on_bytes(total - done);  // of what is not a weight
  if (options.on_warning) tell_warnings();
}

EngineParts::~EngineParts() = default;

void EngineParts::open_drafter(const ModelConfig& config) {
  if (*options.drafter == kOwnDrafter) {
    check_own_drafter(*file, config);
    options.drafter = options.target;
  }
  const bool is_own = *options.drafter == options.target && config.nextn > 0;
  drafter_file = is_own ? file : GgufFile::open(*options.drafter, options.files);
  if (options.adapt) ranks = std::make_shared<RankKeeper>(options, tokenizer, *drafter_file);
}

// On a device with memory of its own: how long a context has room.
void EngineParts::plan_memory(ModelLimits& limits, const ModelTaps& taps) {
  const MemoryPlanRequest request{options, *backend, file, drafter_file, tokenizer, limits, taps};
  MemoryPlan plan = frspec::plan_memory(request);
  const int fits = fit_context(plan, request, options.context.has_value());
  if (fits < context) {
    limits.context = context = fits;
    batch = std::min(batch, context);
    plan.context = fits;
  }
  // Half of what is left, up to another context for each sequence, is for others and what ended ones leave.
  const std::size_t left = plan.free > plan.bytes() ? plan.free - plan.bytes() : 0;
  if (plan.caches() > 0) {
    spare = std::min<double>(limits.places, static_cast<double>(left / 2) / static_cast<double>(plan.caches()));
  }
  memory_plan = plan;
  if (options.on_plan) options.on_plan(plan);
}

void EngineParts::make_drafting(const std::string& head, const std::function<void(std::size_t)>& on_bytes) {
  const DrafterParts parts{.backend = *backend,
                           .target = *target,
                           .tokenizer = tokenizer,
                           .file = drafter_file,
                           .context = context,
                           .batch = batch,
                           .spare = spare,
                           .places = target->limits().places,
                           .on_bytes = on_bytes};
  auto made = std::make_unique<Drafting>(options, head, DraftingParts{parts, kEngineTimes, ranks});
  const std::string about =
      concat(processor_name(), "; ", backend->description(), "; target ", identity_of(*file), "; drafter ",
             drafter_file ? identity_of(*drafter_file) : "none", "; ngram ", ngram_of(options), "; cache ",
             static_cast<int>(options.kv_type), "; tree ", options.tree ? "fixed" : "auto");
  planner = std::make_unique<Planner>(made->arms(), options, about);
  drafting = std::move(made);
  runner->verifier().note_candidates(drafting->drafter().wanted_candidates());
}

void EngineParts::tell_warnings() const {
  for (const std::string& warning : file->warnings()) options.on_warning(warning);
  if (!drafter_file || drafter_file == file) return;
  for (const std::string& warning : drafter_file->warnings()) options.on_warning(warning);
}

}  // namespace frspec
