// What the tuner should know before it costs a sequence anything.
#pragma once

#include <functional>

#include "engine/parts.h"
#include "engine/places.h"
#include "engine/sequence.h"

namespace frspec {

// Passes of the target, and a few drafted steps, each of which `advance` makes of the sequence that it is given; unless
// the costs are known already. The sequences that run are displaced.
void calibrate(EngineParts& parts, Places& places, const std::function<void(Sequence&)>& advance);

}  // namespace frspec
