// Notes the states that a head meets, for making a sketch of it (vocab/sketch.h).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "vocab/draft_head.h"

namespace frspec {

struct StateRecord {
  std::size_t most = 0;       // states that are wanted
  std::size_t dim = 0;        // of a state; 0: none was met yet
  std::vector<float> states;  // (count, dim), as they came
};

// `head`, which works as it did.
std::unique_ptr<DraftHead> make_recording_head(Backend& backend, std::unique_ptr<DraftHead> head,
                                               std::shared_ptr<StateRecord> record);

}  // namespace frspec
