// Rows that follow the text (the idea of NanoSpec, 2605.26444): the tokens of the prompt, of what was written lately,
// of the draft trees, and those that the target itself found probable where it verified; united with rows that always
// stay, the most frequent tokens.
//
// All rows lie in one packed weight with a place for each; a token that comes in takes the place of the one that was
// met longest ago. So a step costs a product with few rows, and what a text changes is a handful of rows a step.
#pragma once

#include <memory>
#include <span>

#include "vocab/draft_head.h"

namespace frspec {

// Rows `fixed` (ascending) stay while a text is written, and between texts, too, unless `adaptive`, made for them,
// replaces some; `places` more follow the text, and are at first those of `seed` that are not among the fixed ones (the
// best first; no more than there are places). At least one row in all.
std::unique_ptr<DraftHead> make_contextual_head(Backend& backend, const HeadRows& rows,
                                                std::span<const std::int32_t> fixed, int places,
                                                std::span<const std::int32_t> seed,
                                                std::unique_ptr<AdaptiveRows> adaptive = nullptr);

}  // namespace frspec
