// What to say of an option that is none.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace frspec {

// What follows "unknown option NAME": what stands here for that option of llama.cpp, or the nearest of the `known`
// names; nothing where none is near.
std::string unknown_option_help(std::string_view name, std::span<const std::string_view> known);

}  // namespace frspec
