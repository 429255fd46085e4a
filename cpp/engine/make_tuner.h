// A tuner for a drafter: its arms, their heads timed.
#pragma once

#include <memory>
#include <string>

#include "draft/drafter.h"
#include "engine/options.h"
#include "engine/tuner.h"

namespace frspec {

// `head`: the policy that the drafter was made with.
std::unique_ptr<Tuner> make_tuner(Backend& backend, const Drafter& drafter, const std::string& head,
                                  const EngineOptions& options);

}  // namespace frspec
