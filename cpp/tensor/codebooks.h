// The codebooks of IQ1, IQ2 and IQ3, as ggml has them (MIT licence, the ggml authors): an entry is a run of elements,
// two bits for each of eight, or three for each of four; which numbers these stand for is in coded.cpp.
#pragma once

#include <cstdint>

namespace frspec {

// Generated (codebooks.cpp).
extern const std::uint16_t kCodebookIQ1[2048];
extern const std::uint16_t kCodebookIQ2_XXS[256];
extern const std::uint16_t kCodebookIQ2_XS[512];
extern const std::uint16_t kCodebookIQ2_S[1024];
extern const std::uint16_t kCodebookIQ3_XXS[256];
extern const std::uint16_t kCodebookIQ3_S[512];

}  // namespace frspec
