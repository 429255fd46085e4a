// Reading what a sequence has already: its prompt, and what was written behind it, if that was displaced from the
// caches.
#pragma once

#include <cstddef>

#include "engine/parts.h"
#include "engine/places.h"

namespace frspec {

class Prefill {
 public:
  Prefill(EngineParts& parts, Places& places) : parts_(parts), places_(places) {}

  // The sequence of the place in use begins, or begins again: with what the caches have of it.
  void begin(Sequence& sequence);
  // The rest, chunk by chunk, through target and drafter; then the first token that follows. False: abandoned.
  bool read(Sequence& sequence);

 private:
  void begin_drafting(Sequence& sequence, std::size_t most);
  void append_first(Sequence& sequence, int rows);
  void abandon();

  EngineParts& parts_;
  Places& places_;
};

}  // namespace frspec
