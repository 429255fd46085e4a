// Parsing of command line arguments.
#include "cli/arguments.h"

#include <algorithm>
#include <charconv>
#include <concepts>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "cli/unknown_option.h"

namespace frspec {
namespace {

// "-n, --max-tokens" holds "-n" and "--max-tokens".
std::vector<std::string_view> split_names(std::string_view names) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t comma = names.find(", ");
    parts.push_back(names.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    names.remove_prefix(comma + 2);
  }
}

bool holds_name(std::string_view names, std::string_view name) {
  const std::vector<std::string_view> parts = split_names(names);
  return std::find(parts.begin(), parts.end(), name) != parts.end();
}

template <class T>
std::string expected_number() {
  if constexpr (std::floating_point<T>) return "a number";
  return concat("a whole number from ", std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max());
}

template <class T>
T parse_number(std::string_view names, std::string_view value) {
  const char* end = value.data() + value.size();
  T number{};
  const auto [rest, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc() || rest != end) {
    fail(names, ": found ", quoted(value), ", expected ", expected_number<T>());
  }
  return number;
}

// "a,b" holds "a" and "b"; an empty text holds nothing.
std::vector<std::string_view> split_commas(std::string_view text) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    parts.push_back(text.substr(0, comma));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  return parts;
}

}  // namespace

void Arguments::add(std::string names, std::string placeholder, std::string help,
                    std::function<void(std::string_view)> set) {
  options_.push_back({std::move(names), std::move(placeholder), std::move(help), std::move(set), sections_.size() - 1});
}

void Arguments::flag(std::string names, bool& target, std::string help, bool value) {
  add(std::move(names), "", std::move(help), [&target, value](std::string_view) { target = value; });
}

void Arguments::text(std::string names, std::string placeholder, std::string& target, std::string help) {
  add(std::move(names), std::move(placeholder), std::move(help), [&target](std::string_view value) { target = value; });
}

void Arguments::text(std::string names, std::string placeholder, std::optional<std::string>& target, std::string help) {
  add(std::move(names), std::move(placeholder), std::move(help), [&target](std::string_view value) { target = value; });
}

template <class T>
void Arguments::add_number(std::string names, std::string placeholder, T& target, std::string help) {
  auto set = [&target, names](std::string_view value) { target = parse_number<T>(names, value); };
  add(std::move(names), std::move(placeholder), std::move(help), std::move(set));
}

void Arguments::numbers(std::string names, std::string placeholder, std::vector<int>& target, std::string help) {
  auto set = [&target, names](std::string_view value) {
    target.clear();
    for (const std::string_view part : split_commas(value)) target.push_back(parse_number<int>(names, part));
  };
  add(std::move(names), std::move(placeholder), std::move(help), std::move(set));
}

void Arguments::texts(std::string names, std::string placeholder, std::vector<std::string>& target, std::string help) {
  add(std::move(names), std::move(placeholder), std::move(help), [&target](std::string_view value) {
    target.clear();
    for (const std::string_view part : split_commas(value)) target.emplace_back(part);
  });
}

void Arguments::number(std::string names, std::string placeholder, std::optional<float>& target, std::string help) {
  auto set = [&target, names](std::string_view value) { target = parse_number<float>(names, value); };
  add(std::move(names), std::move(placeholder), std::move(help), std::move(set));
}

void Arguments::number(std::string names, std::string placeholder, std::optional<int>& target, std::string help) {
  auto set = [&target, names](std::string_view value) { target = parse_number<int>(names, value); };
  add(std::move(names), std::move(placeholder), std::move(help), std::move(set));
}

void Arguments::repeated(std::string names, std::string placeholder, std::vector<std::string>& target,
                         std::string help) {
  add(std::move(names), std::move(placeholder), std::move(help),
      [&target](std::string_view value) { target.emplace_back(value); });
}

void Arguments::number(std::string names, std::string placeholder, int& target, std::string help) {
  add_number(std::move(names), std::move(placeholder), target, std::move(help));
}

void Arguments::number(std::string names, std::string placeholder, std::optional<std::uint64_t>& target,
                       std::string help) {
  auto set = [&target, names](std::string_view value) {
    target.reset();
    if (value != "-1") target = parse_number<std::uint64_t>(names, value);
  };
  add(std::move(names), std::move(placeholder), std::move(help), std::move(set));
}

void Arguments::number(std::string names, std::string placeholder, float& target, std::string help) {
  add_number(std::move(names), std::move(placeholder), target, std::move(help));
}

void Arguments::positional(std::string name, std::string& target, std::string help) {
  positional_ = Option{std::move(name), "", std::move(help), [&target](std::string_view value) { target = value; }, 0};
}

const Arguments::Option* Arguments::find(std::string_view name) const {
  const auto found = std::find_if(options_.begin(), options_.end(),
                                  [&](const Option& option) { return holds_name(option.names, name); });
  return found == options_.end() ? nullptr : &*found;
}

std::string Arguments::unknown_help(std::string_view name) const {
  std::vector<std::string_view> known = {"--help", "--help-all"};
  for (const Option& option : options_) {
    const std::vector<std::string_view> names = split_names(option.names);
    known.insert(known.end(), names.begin(), names.end());
  }
  return unknown_option_help(name, known);
}

void Arguments::take_positional(std::string_view argument) {
  if (!positional_ || positional_seen_) fail("unexpected argument ", quoted(argument));
  positional_->set(argument);
  positional_seen_ = true;
}

bool Arguments::parse(std::span<char* const> arguments) {
  bool only_positional = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    if (only_positional || argument.size() < 2 || argument[0] != '-') {
      take_positional(argument);
      continue;
    }
    if (argument == "--") {
      only_positional = true;
      continue;
    }
    const std::size_t equals = argument.starts_with("--") ? argument.find('=') : std::string_view::npos;
    std::string name(argument.substr(0, equals));
    if (name.starts_with("--")) std::replace(name.begin(), name.end(), '_', '-');
    all_ = name == "--help-all";
    if (name == "--help" || name == "-h" || all_) return false;
    const Option* option = find(name);
    if (option == nullptr) fail("unknown option ", quoted(argument.substr(0, equals)), unknown_help(name));
    if (option->placeholder.empty()) {
      if (equals != std::string_view::npos) fail(option->names, ": takes no value");
      option->set("");
    } else if (equals != std::string_view::npos) {
      option->set(argument.substr(equals + 1));
    } else {
      if (i + 1 == arguments.size()) fail(option->names, ": missing value ", option->placeholder);
      option->set(arguments[++i]);
    }
  }
  if (positional_ && !positional_seen_) fail("missing argument ", positional_->names);
  return true;
}

std::string Arguments::section_help(std::size_t section) const {
  constexpr std::size_t kWidth = 80, kColumn = 29;  // of a line; where its text begins
  std::string text;
  const auto add = [&text](const std::string& left, std::string_view right) {
    text += "  " + left;
    std::size_t at = left.size() + 2;
    if (at + 2 > kColumn) {
      text += "\n";
      at = 0;
    }
    while (true) {
      text += std::string(kColumn - at, ' ');
      std::size_t length = right.size();
      if (length > kWidth - kColumn) length = right.rfind(' ', kWidth - kColumn);
      if (length == 0 || length == std::string_view::npos) length = right.size();
      text += concat(right.substr(0, length), "\n");
      if (length == right.size()) return;
      right.remove_prefix(length + 1);
      at = 0;
    }
  };
  if (section == 0 && positional_) add(positional_->names, positional_->help);
  for (const Option& option : options_) {
    if (option.section != section) continue;
    // Other names of an option are for those who know them.
    const std::vector<std::string_view> names = split_names(option.names);
    std::string shown(names.front());
    const bool is_short = !names.front().starts_with("--");
    if (is_short && names.size() > 1) {
      const auto name = std::find_if(names.begin(), names.end(), [](auto other) { return other.starts_with("--"); });
      if (name != names.end()) shown += concat(", ", *name);
    }
    if (all_) shown = option.names;
    if (!option.placeholder.empty()) shown += " " + option.placeholder;
    add(shown, option.help);
  }
  return text;
}

std::string Arguments::help() const {
  std::string text = concat("Usage: ", usage_, "\n\n", summary_, "\n");
  bool rare_left = false;
  for (const bool rare : {false, true}) {
    for (std::size_t section = 0; section < sections_.size(); ++section) {
      if (sections_[section].rare != rare) continue;
      const std::string options = section_help(section);
      if (options.empty()) continue;
      if (rare && !all_) {
        rare_left = true;
        continue;
      }
      text += sections_[section].title.empty() ? "\n" : concat("\n", sections_[section].title, "\n");
      text += options;
    }
  }
  return text + (rare_left ? "\n  -h, --help; --help-all shows the other options, too\n" : "\n  -h, --help\n");
}

}  // namespace frspec
