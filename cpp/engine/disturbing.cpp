// What tests of many texts disturb before a step (base/chaos.h), none of which changes a token.
#include <vector>

#include "engine/engine.h"

namespace frspec {

// Texts lose their places, and caches what they have kept; the order of free pages is another one.
void Engine::disturb() {
  SequencePages& pages = *target_->pages();
  if (chaos_->one_in(6)) {
    std::vector<Place*> taken;
    for (Place& place : places_) {
      if (place.owner != 0 && !place.ahead) taken.push_back(&place);
    }
    if (!taken.empty()) displace(*taken[static_cast<std::size_t>(chaos_->below(static_cast<int>(taken.size())))]);
  }
  if (chaos_->one_in(4)) pages.forget(1 + chaos_->below(3));
  pages.shuffle(*chaos_);
}

}  // namespace frspec
