// Options of the table as arguments.
#include "cli/option_arguments.h"

#include <span>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace frspec {

void add_option(Arguments& arguments, Choices& choices, const Option& option, std::string otherwise) {
  if (otherwise.empty()) otherwise = option.none.empty() ? format_choice(option, choices) : std::string(option.none);
  const std::string help = otherwise.empty() ? std::string(option.help) : concat(option.help, "; default: ", otherwise);
  std::string flags(option.flags), value(option.value);
  const auto add = [&]<class T>(const T& place) {
    if constexpr (std::is_same_v<T, WordPlace>) {
      arguments.add(flags, value, help, [&choices, place](std::string_view word) { place.set(choices, word); });
    } else if constexpr (std::is_same_v<T, PlaceOf<bool>>) {
      arguments.flag(flags, place(choices), help, !place(choices));
    } else if constexpr (!std::is_same_v<T, std::monostate>) {
      arguments.option(flags, value, place(choices), help);
    }
  };
  std::visit(add, option.place);
}

void add_options(Arguments& arguments, Choices& choices, OptionGroup group) {
  for (const std::span<const Option> options : {generate_options(), engine_options()}) {
    for (const Option& option : options) {
      if (option.group == group && !option.flags.empty()) add_option(arguments, choices, option);
    }
  }
}

}  // namespace frspec
