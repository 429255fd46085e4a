// Drafting with an eye on the noise that verification will draw with (contract 2).
#pragma once

#include <optional>

#include "draft/drafter.h"

namespace frspec {

// The noise of the root's children; none at temperature 0, and for rejection sampling.
std::optional<DraftNoise> noise_of(const TextRules& rules);

}  // namespace frspec
