// Disturbances for tests: what must not matter for any text happens at random, and faults that must be found are made
// on purpose. Only in builds for tests (FRSPEC_TESTING).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace frspec {

class Chaos {
 public:
  // As the variable FRSPEC_CHAOS says, "SEED" or "SEED,FAULT"; null where it is not set, and in builds that are for
  // use.
  static std::unique_ptr<Chaos> from_environment();
  Chaos(std::uint64_t seed, std::string fault) : state_(seed), fault_(std::move(fault)) {}

  int below(int n);  // 0 to n - 1
  bool one_in(int n) { return below(n) == 0; }
  // Whether this fault is to be made: "page", "slot", "seed" or "row".
  bool plants(std::string_view fault) const { return fault_ == fault; }

 private:
  std::uint64_t state_;
  std::string fault_;
};

}  // namespace frspec
