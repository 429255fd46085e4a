#include "vocab/head_spec.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "base/text.h"

namespace frspec {
namespace {

struct Policy {
  std::string_view name;
  HeadSpec::Kind kind;
  enum class Size { None, Needed, Optional } size;
  int default_size;
};

constexpr std::array kPolicies = {
    Policy{"auto", HeadSpec::Kind::Auto, Policy::Size::None, 0},
    Policy{"full", HeadSpec::Kind::Full, Policy::Size::None, 0},
    Policy{"ranked", HeadSpec::Kind::Ranked, Policy::Size::Needed, 0},
    Policy{"learned", HeadSpec::Kind::Learned, Policy::Size::None, 0},
    Policy{"speculated", HeadSpec::Kind::Speculated, Policy::Size::Optional, kSpeculatedRows},
    Policy{"contextual", HeadSpec::Kind::Contextual, Policy::Size::Optional, kContextualRows},
};

const Policy& policy_of(HeadSpec::Kind kind) {
  return *std::find_if(kPolicies.begin(), kPolicies.end(), [kind](const Policy& p) { return p.kind == kind; });
}

[[noreturn]] void refuse(std::string_view text) {
  fail("head: found '", text,
       "', expected 'auto', 'full', 'ranked:N', 'learned', 'speculated[:N]' or 'contextual[:N]' with a number of rows "
       "N, "
       "or a union of ranked, speculated and contextual rows such as 'ranked:8192+contextual:1024'");
}

HeadSpec::Part parse_part(std::string_view part, std::string_view whole) {
  const std::size_t colon = part.find(':');
  const std::string_view name = part.substr(0, colon);
  const auto* policy =
      std::find_if(kPolicies.begin(), kPolicies.end(), [name](const Policy& p) { return p.name == name; });
  if (policy == kPolicies.end()) refuse(whole);
  if (colon == std::string_view::npos) {
    if (policy->size == Policy::Size::Needed) refuse(whole);
    return {policy->kind, policy->default_size};
  }
  const std::string_view digits = part.substr(colon + 1);
  int size = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
  if (policy->size == Policy::Size::None || error != std::errc() || end != digits.data() + digits.size() || size < 1) {
    refuse(whole);
  }
  return {policy->kind, size};
}

}  // namespace

const HeadSpec::Part* HeadSpec::find(Kind kind) const {
  const auto found = std::find_if(parts.begin(), parts.end(), [kind](const Part& part) { return part.kind == kind; });
  return found != parts.end() ? &*found : nullptr;
}

std::string HeadSpec::text() const {
  std::string result;
  for (const Part& part : parts) {
    if (!result.empty()) result += "+";
    result += policy_of(part.kind).name;
    if (part.size > 0) result += concat(":", part.size);
  }
  return result;
}

HeadSpec parse_head_spec(std::string_view text) {
  HeadSpec spec{{}};
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('+', begin), text.size());
    const HeadSpec::Part part = parse_part(text.substr(begin, end - begin), text);
    if (spec.find(part.kind) != nullptr) refuse(text);
    spec.parts.push_back(part);
    begin = end + 1;
  }
  for (const HeadSpec::Kind alone : {HeadSpec::Kind::Full, HeadSpec::Kind::Learned, HeadSpec::Kind::Auto}) {
    if (spec.find(alone) != nullptr && spec.parts.size() > 1) refuse(text);
  }
  return spec;
}

}  // namespace frspec
