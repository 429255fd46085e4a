#include "cli/arguments.h"

#include <algorithm>
#include <charconv>
#include <concepts>
#include <limits>
#include <random>
#include <system_error>
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

}  // namespace

std::vector<std::string> split_commas(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    parts.emplace_back(text.substr(0, comma));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  return parts;
}

void read_argument(std::string_view, std::string_view text, std::string& to) { to = text; }
void read_argument(std::string_view, std::string_view text, std::filesystem::path& to) { to = text; }
void read_argument(std::string_view names, std::string_view text, int& to) { to = parse_number<int>(names, text); }
void read_argument(std::string_view names, std::string_view text, float& to) { to = parse_number<float>(names, text); }

void read_argument(std::string_view names, std::string_view text, std::uint64_t& to) {
  to = text == "-1" ? std::random_device()() : parse_number<std::uint64_t>(names, text);
}

void read_argument(std::string_view names, std::string_view text, std::vector<int>& to) {
  to.clear();
  for (const std::string& part : split_commas(text)) to.push_back(parse_number<int>(names, part));
}

void read_argument(std::string_view, std::string_view text, std::vector<std::string>& to) { to.emplace_back(text); }

// "ID+BIAS" or "ID-BIAS", as llama.cpp writes it.
void read_argument(std::string_view, std::string_view text, std::vector<std::pair<std::int32_t, float>>& to) {
  auto& [id, bias] = to.emplace_back();
  const char* end = text.data() + text.size();
  const auto [after_id, bad_id] = std::from_chars(text.data(), end, id);
  const bool plus = after_id != end && *after_id == '+';
  const bool signed_value = plus || (after_id != end && *after_id == '-');
  const auto [after, bad] = std::from_chars(plus ? after_id + 1 : after_id, end, bias);
  if (bad_id != std::errc() || !signed_value || bad != std::errc() || after != end) {
    fail("--logit-bias: found ", quoted(text), ", expected a token id, + or -, and a number: 15043+1 or 15043-1");
  }
}

void Arguments::add(std::string names, std::string placeholder, std::string help,
                    std::function<void(std::string_view)> set) {
  options_.push_back(
      {std::move(names), std::move(placeholder), std::move(help), std::move(set), sections_.size() - 1, false});
}

void Arguments::positional(std::string name, std::string& target, std::string help) {
  positional_ =
      Named{std::move(name), "", std::move(help), [&target](std::string_view value) { target = value; }, 0, false};
}

Arguments::Named* Arguments::find(std::string_view name) {
  const auto found = std::find_if(options_.begin(), options_.end(),
                                  [&](const Named& option) { return holds_name(option.names, name); });
  return found == options_.end() ? nullptr : &*found;
}

bool Arguments::given(std::string_view name) const {
  return std::any_of(options_.begin(), options_.end(),
                     [&](const Named& option) { return option.given && holds_name(option.names, name); });
}

std::string Arguments::unknown_help(std::string_view name) const {
  std::vector<std::string_view> known = {"--help", "--help-all"};
  for (const Named& option : options_) {
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
    Named* option = find(name);
    if (option == nullptr) fail("unknown option ", quoted(argument.substr(0, equals)), unknown_help(name));
    option->given = true;
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
  for (const Named& option : options_) {
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
