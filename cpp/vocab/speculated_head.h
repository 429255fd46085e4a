// A vocabulary that is speculated at every step (SpecVocab, 2602.13836, section 3): a sketch scores all rows, the best
// N are multiplied exactly, and the rest counts as impossible.
//
//   s = W_vocab (W_down h)     C = top-N of s     z = h . E[C]     q = softmax(z) on C
//
// Under noise the candidates are the best of s / temperature + noise: the noise lifts tokens of the tail, too.
#pragma once

#include <memory>

#include "vocab/draft_head.h"
#include "vocab/sketch.h"

namespace frspec {

// `size` candidates for each of up to `max_rows` states. Throws InvalidInput where there are no such many rows.
std::unique_ptr<DraftHead> make_speculated_head(Backend& backend, const HeadRows& rows, Sketch sketch, int size,
                                                int max_rows);

}  // namespace frspec
