#include "engine/options.h"

#include <charconv>

#include "base/error.h"
#include "base/text.h"

namespace frspec {

std::optional<TreeShape> TreeChoice::shape() const {
  const bool has_numbers = depth || branch || size;
  if (has_numbers && word != "auto") {
    fail("tree: found ", quoted(word), " beside tree_depth, tree_branch or tree_size, expected one of them");
  }
  TreeShape shape;
  if (has_numbers) {
    shape = {depth.value_or(shape.depth), branch.value_or(shape.branch), size.value_or(shape.size)};
  } else if (word == "auto") {
    return std::nullopt;
  } else {
    const char* at = word.data();
    const char* const end = at + word.size();
    for (int* number : {&shape.depth, &shape.branch, &shape.size}) {
      const auto [after, bad] = std::from_chars(at, end, *number);
      const bool goes_on = number == &shape.size ? after == end : after != end && *after == ',';
      if (bad != std::errc() || !goes_on) {
        fail("tree: found ", quoted(word), ", expected auto or DEPTH,BRANCH,SIZE, as 5,10,60");
      }
      at = after + 1;
    }
  }
  check_tree_shape(shape);
  return shape;
}

std::size_t parse_memory(std::string_view option, std::string_view text) {
  constexpr std::string_view kUnits = "KMGT";
  constexpr double kMost = 1ull << 60;
  double number = 0.0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (unit.starts_with(' ')) unit.remove_prefix(1);
  double factor = 1.0;
  if (const std::size_t power = unit.empty() ? kUnits.npos : kUnits.find(unit[0]); power != kUnits.npos) {
    factor = static_cast<double>(1ull << (10 * (power + 1)));
    unit.remove_prefix(1);
    if (unit.starts_with('i')) unit.remove_prefix(1);
  }
  const bool is_known = unit.empty() || unit == "B";
  if (bad != std::errc() || !is_known || !(number >= 0.0) || number * factor > kMost) {
    fail(option, ": found ", quoted(text), ", expected an amount of memory, as 4GiB, 512M, or bytes");
  }
  return static_cast<std::size_t>(number * factor);
}

KvType parse_kv_type(std::string_view name) {
  if (name == "f16") return KvType::F16;
  if (name == "q8_0") return KvType::Q8_0;
  if (name == "f32") return KvType::F32;
  fail("type of the K/V cache: found '", name, "', expected f16, q8_0 or f32");
}

DraftMode parse_draft_mode(std::string_view name) {
  if (name == "auto") return DraftMode::Auto;
  if (name == "always") return DraftMode::Always;
  if (name == "never") return DraftMode::Never;
#ifdef FRSPEC_TESTING
  if (name == "sparse") return DraftMode::Sparse;
#endif
  if (name == "watch") return DraftMode::Watch;
  fail("draft: found ", quoted(name), ", expected auto, always or never");
}

VerifyMode parse_verify_mode(std::string_view name) {
  if (name == "keyed") return VerifyMode::Keyed;
  if (name == "rejection") return VerifyMode::Rejection;
  if (name == "block") return VerifyMode::Block;
  fail("verify: found ", quoted(name), ", expected keyed, rejection or block");
}

}  // namespace frspec
