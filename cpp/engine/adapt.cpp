// Adapting: options, counting, saving.
#include "engine/adapt.h"

#include <chrono>

#include "base/error.h"
#include "engine/engine.h"
#include "vocab/token_ranks.h"

namespace frspec {
namespace {

// At the end of a text somebody waits for it; whoever else is writing the file is done in some milliseconds.
constexpr std::chrono::milliseconds kPatience{200};
constexpr std::chrono::milliseconds kFinalPatience{10'000};

}  // namespace

void check_adapt(const EngineOptions& options, const HeadSpec& head) {
  if (!options.adapt) return;
  if (!options.drafter) {
    fail("adapt: found a ranks file, ", options.adapt->string(), ", but there is no drafter to use it");
  }
  // "auto" has heads of both kinds where the pair allows them.
  if (!head.is_auto() && !head.find(HeadSpec::Kind::Ranked) && !head.find(HeadSpec::Kind::Contextual)) {
    fail("adapt: found a ranks file, ", options.adapt->string(), ", and head '", head.text(),
         "', none of whose rows follow ranks; expected 'auto', 'ranked:N', 'contextual' or a union with one of them");
  }
}

std::shared_ptr<AdaptiveRanks> make_adaptive_ranks(const EngineOptions& options,
                                                   const std::shared_ptr<const Tokenizer>& tokenizer,
                                                   const GgufFile& drafter) {
  if (!options.adapt) return nullptr;
  return std::make_shared<AdaptiveRanks>(*options.adapt, tokenizer, find_ranks(options.ranks, drafter, *tokenizer));
}

void Engine::save_ranks() {
  const Lock lock(*this);
  if (!adaptive_) fail("save_ranks: found an engine whose ranks do not adapt, expected the option adapt");
  adaptive_->save(kFinalPatience);
}

Engine::~Engine() {
  if (tuning_file_ && tuner_->knows_costs()) (void)tuning_file_->write(tuner_->numbers());
  if (!adaptive_ || adaptive_->unsaved() == 0) return;
  try {
    adaptive_->save(kFinalPatience);
  } catch (const std::exception&) {
    // Nobody is left to be told. Who wants to know calls save_ranks().
  }
}

void Engine::note_written(Generation& text) {
  if (!adaptive_ || !text.counts_) return;
  written_.clear();
  for (const GeneratedToken& token : text.fresh_) written_.push_back(token.id);
  adaptive_->add(written_);
  if (text.finish_ == FinishReason::None || !adaptive_->is_due()) return;
  try {
    adaptive_->save(kPatience);
  } catch (const std::exception& error) {
    text.stats_.adapt_error = error.what();
  }
}

}  // namespace frspec
