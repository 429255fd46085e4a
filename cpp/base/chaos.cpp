#include "base/chaos.h"

#include <cstdlib>
#include <string>

#include "base/error.h"

namespace frspec {

std::unique_ptr<Chaos> Chaos::from_environment() {
#ifdef FRSPEC_TESTING
  const char* const value = std::getenv("FRSPEC_CHAOS");
  if (value == nullptr || *value == '\0') return nullptr;
  char* end = nullptr;
  const std::uint64_t seed = std::strtoull(value, &end, 10);
  std::string fault = *end == ',' ? end + 1 : end;
  const bool is_known = fault.empty() || fault == "page" || fault == "slot" || fault == "seed" || fault == "row";
  if (end == value || !is_known) fail("FRSPEC_CHAOS: found '", value, "', expected SEED or SEED,page|slot|seed|row");
  return std::make_unique<Chaos>(seed, std::move(fault));
#else
  return nullptr;
#endif
}

// SplitMix64.
int Chaos::below(int n) {
  std::uint64_t value = state_ += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  value ^= value >> 31;
  return static_cast<int>(value % static_cast<std::uint64_t>(n));
}

}  // namespace frspec
