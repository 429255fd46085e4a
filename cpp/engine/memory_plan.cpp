#include "engine/memory_plan.h"

#include <algorithm>

#include "backend/planning_backend.h"
#include "base/error.h"
#include "base/text.h"
#include "draft/make_drafter.h"
#include "engine/guided_trees.h"

namespace frspec {
namespace {

constexpr int kStep = 256;              // tokens by which a context is made smaller
constexpr int kLeastContext = 256;      // a shorter one is of no use, unless the model's own is
constexpr std::int64_t kHeadRows = 64;  // of logits that a backend keeps while it chooses from a head

// The plan but for what the device has, with another context.
MemoryPlan count(const MemoryPlanRequest& request, int context) {
  PlanningBackend device(request.device);
  ModelLimits limits = request.limits;
  limits.context = context;
  MemoryPlan plan;
  plan.context = context;
  const CausalModel target(request.target, device, limits, request.taps);
  plan.target_weights = device.weight_bytes();
  const std::size_t picked = device.row_bytes_chosen();  // of the target's: parts of its matrices
  if (request.drafter) {
    const auto drafter = make_drafter(request.options, request.options.head,
                                      {.backend = device,
                                       .target = target,
                                       .tokenizer = request.tokenizer,
                                       .file = request.drafter,
                                       .context = context,
                                       .batch = std::min(request.options.batch, context)});
    plan.head_rows = device.row_bytes_chosen() - picked;
    plan.drafter_weights = device.weight_bytes() - plan.target_weights - plan.head_rows;
  }
  // What texts with grammars take, each of them.
  const TreeBounds bounds = tree_bounds(request.options);
  for (int place = 0; place < limits.places; ++place) {
    const GuidedTrees guided(device, target.config().vocab, bounds.size, bounds.depth);
  }
  plan.working = device.buffer_bytes() + static_cast<std::size_t>(kHeadRows * target.config().vocab) * sizeof(float);
  return plan;
}

}  // namespace

MemoryPlan plan_memory(const MemoryPlanRequest& request) {
  const int context = request.limits.context;
  MemoryPlan plan = count(request, context);
  // What grows with the context is a line through two points.
  const int other = std::max(2, context / 2);
  if (other < context) {
    const MemoryPlan smaller = count(request, other);
    plan.per_token = (plan.working - smaller.working) / static_cast<std::size_t>(context - other);
  }
  plan.working -= std::min(plan.working, plan.caches());
  const DeviceMemory memory = request.device.instruments().memory();
  plan.working += memory.reserved;
  plan.free = memory.free;
  return plan;
}

int fit_context(const MemoryPlan& plan, const MemoryPlanRequest& request, bool is_fixed) {
  if (plan.bytes() <= plan.free) return plan.context;
  const std::size_t fixed = plan.bytes() - plan.caches();
  const std::size_t room = plan.free > fixed && plan.per_token > 0 ? (plan.free - fixed) / plan.per_token : 0;
  const int fits = static_cast<int>(std::min(room, static_cast<std::size_t>(plan.context))) / kStep * kStep;
  if (!is_fixed && fits >= std::min(kLeastContext, plan.context)) return fits;
  const ModelLimits& limits = request.limits;
  const std::size_t state = read_causal_config(*request.target).state_bytes();
  std::string help, parts = describe(plan);
  if (state > 0) {
    const auto number = static_cast<std::size_t>(limits.places + limits.states);
    parts += concat(", of it ", format_bytes(state * number), " recurrent states of ", limits.places, " texts");
    if (limits.places > 1) help += "fewer texts at once (n_parallel), ";
  }
  if (!request.options.head_on_host) help += "the head in host memory (head_on_host), ";
  if (request.options.kv_type != KvType::Q8_0) help += "cache_type q8_0, ";
  if (!help.empty()) help += "or ";
  help += fits >= 2 ? concat("a context of ", fits, " tokens") : "a smaller model";
  throw OutOfMemory(concat(request.options.target.string(), " on ", request.device.description(), ": found ",
                           format_bytes(plan.free), " of memory free, expected ", format_bytes(plan.bytes()), ": ",
                           parts, "; ", format_bytes(plan.bytes() - plan.free), " are missing. What helps: ", help));
}

std::string describe(const MemoryPlan& plan) {
  std::string text = concat("target ", format_bytes(plan.target_weights));
  if (plan.drafter_weights > 0) text += concat(", drafter ", format_bytes(plan.drafter_weights));
  if (plan.head_rows > 0) text += concat(", draft head rows ", format_bytes(plan.head_rows));
  return concat(text, ", caches ", format_bytes(plan.caches()), " for ", plan.context, " tokens, working memory ",
                format_bytes(plan.working));
}

}  // namespace frspec
