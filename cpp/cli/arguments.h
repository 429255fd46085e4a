// A small parser of command line arguments: options that know where their value goes, and the help text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace frspec {

// "a,b" holds "a" and "b"; an empty text holds nothing.
std::vector<std::string> split_commas(std::string_view text);

// Reads what follows an option. Throws InvalidInput that names the option for anything else.
void read_argument(std::string_view names, std::string_view text, std::string& to);
void read_argument(std::string_view names, std::string_view text, std::filesystem::path& to);
void read_argument(std::string_view names, std::string_view text, int& to);
void read_argument(std::string_view names, std::string_view text, float& to);
void read_argument(std::string_view names, std::string_view text, std::uint64_t& to);     // a seed; -1: a random one
void read_argument(std::string_view names, std::string_view text, std::vector<int>& to);  // "1,2,4"
void read_argument(std::string_view names, std::string_view text, std::vector<std::string>& to);  // another one
void read_argument(std::string_view names, std::string_view text, std::vector<std::pair<std::int32_t, float>>& to);
template <class T>
void read_argument(std::string_view names, std::string_view text, std::optional<T>& to) {
  read_argument(names, text, to.emplace());
}

class Arguments {
 public:
  // `usage` is the line after "Usage: ", `summary` a sentence about what the command does.
  Arguments(std::string usage, std::string summary) : usage_(std::move(usage)), summary_(std::move(summary)) {}

  // Options from here on belong under this title. The help leaves those of `rare` ones to --help-all.
  void begin(std::string title, bool rare = false) { sections_.push_back({std::move(title), rare}); }

  // `names` as the help shows them: "-n, --max-tokens". What `set` refers to must outlive parse(); where an option is
  // not mentioned on the command line, `set` is not called. `placeholder` is empty for a flag.
  void add(std::string names, std::string placeholder, std::string help, std::function<void(std::string_view)> set);
  void flag(std::string names, bool& target, std::string help, bool value = true) {
    add(std::move(names), "", std::move(help), [&target, value](std::string_view) { target = value; });
  }
  // One that is given twice takes its last value, but for lists that grow: read_argument knows which.
  template <class T>
  void option(std::string names, std::string placeholder, T& target, std::string help) {
    auto set = [&target, names](std::string_view value) { read_argument(names, value, target); };
    add(std::move(names), std::move(placeholder), std::move(help), std::move(set));
  }
  // The one argument that is no option; without it parse() fails.
  void positional(std::string name, std::string& target, std::string help);

  // Reads "--name value", "--name=value" and "-n value", and underscores of long names as dashes; after "--" everything
  // is positional. Returns false where --help, -h or --help-all was found: help() is what was asked for then. Throws
  // InvalidInput that names the option for anything it cannot use.
  bool parse(std::span<char* const> arguments);
  std::string help() const;
  // Whether an option was on the command line that was parsed.
  bool given(std::string_view name) const;

 private:
  struct Named {
    std::string names;
    std::string placeholder;  // empty: a flag
    std::string help;
    std::function<void(std::string_view)> set;
    std::size_t section = 0;
    bool given = false;
  };
  struct Section {
    std::string title;
    bool rare = false;
  };

  Named* find(std::string_view name);
  std::string unknown_help(std::string_view name) const;
  std::string section_help(std::size_t section) const;
  void take_positional(std::string_view argument);

  std::string usage_, summary_;
  std::vector<Section> sections_ = {{}};  // the first one has no title
  std::vector<Named> options_;
  bool all_ = false;
  std::optional<Named> positional_;
  bool positional_seen_ = false;
};

}  // namespace frspec
