// A tuner for a drafter: its heads, timed, and the shapes its trees may take.
#pragma once

#include <memory>

#include "draft/drafter.h"
#include "engine/tuner.h"
#include "vocab/choice_head.h"

namespace frspec {

// `choice`: the drafter's head where its policy is "auto", else null: then there is one arm, the head `name` with trees
// of shape `tree`.
std::unique_ptr<Tuner> make_tuner(Backend& backend, Drafter& drafter, ChoiceHead* choice, const std::string& name,
                                  const TreeShape& tree);

}  // namespace frspec
