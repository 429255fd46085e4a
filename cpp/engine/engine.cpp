#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "engine/calibration.h"
#include "engine/step_times.h"

namespace frspec {

Engine::Engine(const EngineOptions& options)
    : parts_(options),
      budget_(options.step_ms, parts_.batch),
      places_(parts_),
      prefill_(parts_, places_),
      iteration_(parts_, places_, budget_),
      batch_(parts_, places_, prefill_, iteration_, budget_) {}

Engine::~Engine() = default;

// One call at a time. A call from inside another, as a logits processor might make, would wait for itself: an error.
std::unique_lock<OwnedMutex> Engine::lock() {
  if (mutex_.is_mine()) {
    throw Error("this engine is writing a text: a logits processor cannot use the model that it is called for");
  }
  return std::unique_lock(mutex_);
}

EngineAccess Engine::access() { return {lock(), parts_}; }

EngineAccess Engine::take_over() {
  EngineAccess access = this->access();
  places_.take_over();
  return access;
}

void Engine::set_head(const std::string& head) {
  if (!parts_.drafter_file) fail("head: found ", head, ", but there is no drafter to use it");
  const auto held = lock();
  parts_.make_drafting(head);
  calibrated_ = false;
  places_.drop_all();  // the new drafter knows nothing of the sequences, nor of what is in the caches
}

void Engine::save_ranks() {
  const auto held = lock();
  if (!parts_.ranks) fail("save_ranks: found an engine whose ranks do not adapt, expected the option adapt");
  parts_.ranks->save();
}

// Rejection sampling is for chains that one drafter proposes.
void Engine::check_verify_mode(const GenerateOptions& options) const {
  if (options.verify == VerifyMode::Keyed) return;
  if (parts_.ranks) {
    // There the drafts are a part of what a seed gives, and they would depend on all texts before.
    fail("verify: found rejection sampling and ranks that adapt (", parts_.options.adapt->string(),
         "), with which a seed would give one text today and another one tomorrow; expected 'keyed'");
  }
  if (options.logits_processor) fail("verify: found rejection sampling and a logits processor, expected 'keyed'");
  if (options.grammar) fail("verify: found rejection sampling and a grammar, expected 'keyed'");
  if (!parts_.drafting) return;
  if (parts_.options.drafter && (!parts_.options.tree || parts_.options.tree->branch != 1)) {
    fail("verify: rejection sampling works on chains: found ",
         parts_.options.tree ? concat("tree_branch ", parts_.options.tree->branch) : "tree 'auto'",
         ", expected a fixed tree of branch 1, as tree '5,1,7'");
  }
  if (parts_.options.drafter && ngram_of(parts_.options) > 0) {
    fail("verify: found rejection sampling with n-grams beside a drafter, expected one of them alone, or 'keyed'");
  }
  if (parts_.max_depth + 1 > parts_.target->limits().logit_rows) {
    fail("verify: rejection sampling: found trees of up to ", parts_.max_depth, " levels, expected at most ",
         parts_.target->limits().logit_rows - 1, ": a smaller tree_depth or a larger tree_size");
  }
}

std::unique_ptr<Sequence> Engine::begin(std::vector<TokenId> prompt, const GenerateOptions& options) {
  auto sequence = std::make_unique<Sequence>(parts_.tokenizer, parts_.file->path().string(), parts_.context,
                                             std::move(prompt), options);
  check_verify_mode(options);
  const auto held = lock();
  (void)places_.sampler_of(*sequence, nullptr);  // which checks what only the model knows
  if (parts_.planner && !calibrated_ && options.draft != DraftMode::Never) prepare();
  if (parts_.drafting) sequence->stats().ranks = parts_.drafting->ranks_source();
  return sequence;
}

void Engine::prepare() {
  calibrated_ = true;
  iteration_.count(false);
  calibrate(parts_, places_, [this](Sequence& sequence) {
    sequence.begin_step();
    Sequence* const alone = &sequence;
    places_.begin_step(std::span(&alone, 1));
    advance(sequence);
  });
  iteration_.count(true);
}

std::span<const GeneratedToken> Engine::step(Sequence& sequence) {
  sequence.begin_step();
  if (sequence.finish_reason() != FinishReason::None) return {};
  const auto held = lock();
  if (sequence.error()) throw Error("this generation cannot go on: an earlier step of it has failed");
  Sequence* const alone = &sequence;
  places_.begin_step(std::span(&alone, 1));
  places_.disturb();
  if (!places_.guard(sequence, [&] { advance(sequence); })) std::rethrow_exception(sequence.error());
  places_.note_pages();
  return sequence.fresh();
}

void Engine::step(std::span<Sequence* const> sequences) {
  const auto held = lock();
  std::vector<Sequence*> running;
  for (Sequence* sequence : sequences) {
    sequence->begin_step();
    if (sequence->finish_reason() == FinishReason::None && !sequence->error()) running.push_back(sequence);
  }
  places_.begin_step(running);
  places_.disturb();
  step_all(running);
  places_.note_pages();
}

void Engine::step_all(std::vector<Sequence*>& running) {
  const auto advance_if = [&](auto&& wanted) {
    std::erase_if(running, [&](Sequence* sequence) {
      if (!wanted(*sequence)) return false;
      places_.guard(*sequence, [&] { advance(*sequence); });
      return true;
    });
  };
  // One whose step has begun already has that for itself, before others use the device; and one that is cancelled takes
  // no part.
  if (running.size() > 1) {
    advance_if([&](const Sequence& sequence) {
      const Place* own = places_.of(sequence);
      return own != nullptr && own->ahead;
    });
  }
  advance_if([](const Sequence& sequence) { return sequence.cancelled(); });
  if (running.empty()) return;
  // With one place, others wait until the first has written its text.
  if (places_.count() == 1) running.erase(running.begin() + 1, running.end());
  Sequence& first = *running.front();
  const Place* own = places_.of(first);
  // One text has its own road, which is faster: but a long prompt is read in pieces, as beside others that may come.
  const bool is_short = (own != nullptr && own->read) || std::cmp_less_equal(first.tokens().size(), parts_.batch);
  if (running.size() == 1 && (is_short || first.options().verify != VerifyMode::Keyed)) {
    places_.guard(first, [&] { advance(first); });
  } else {
    batch_.step(running);
  }
}

// A step of one sequence, or what it has to read before.
void Engine::advance(Sequence& sequence) {
  const auto start = Clock::now();
  if (sequence.cancelled()) {
    sequence.finish(FinishReason::Cancelled);
    return iteration_.close(sequence);
  }
  places_.keep_those_before(&sequence);
  if (!places_.enter(sequence)) {
    if (places_.are_several()) return;
    throw Error("found no place for a text that is alone");
  }
  Place& place = places_.current();
  const bool reads = !place.read;
  if (!place.begun) prefill_.begin(sequence);
  // What it reads and the first root; or this step, and one that begins ahead.
  const std::int64_t needs = reads ? static_cast<std::int64_t>(place.tokens().size()) + 1
                                   : std::int64_t{place.committed} + 2 * (parts_.max_depth + 1) + 1;
  if (!places_.hold(needs)) {
    if (!places_.are_several()) throw Error("cache: found no page that is left");
    return places_.wait(sequence);
  }
  const bool whole = !reads || prefill_.read(sequence);
  if (!reads) iteration_.run(sequence);
  place.read = whole;
  if (!whole && sequence.cancelled()) sequence.finish(FinishReason::Cancelled);
  iteration_.close(sequence, reads, seconds_since(start));
}

}  // namespace frspec
