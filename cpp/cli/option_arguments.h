// The options of the table (engine/option_table.h) on command lines.
#pragma once

#include <string>
#include <string_view>

#include "cli/arguments.h"
#include "engine/option_table.h"

namespace frspec {

// `otherwise`: what the help says holds without it; by default what `choices` hold now.
void add_option(Arguments& arguments, Choices& choices, const Option& option, std::string otherwise = {});
// All of a section.
void add_options(Arguments& arguments, Choices& choices, OptionGroup group);

}  // namespace frspec
