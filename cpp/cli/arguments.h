// A small parser of command line arguments: options that know where their value goes, and the help text.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace frspec {

class Arguments {
 public:
  // `usage` is the line after "Usage: ", `summary` a sentence about what the command does.
  Arguments(std::string usage, std::string summary) : usage_(std::move(usage)), summary_(std::move(summary)) {}

  // Options from here on belong under this title. The help leaves those of `rare` ones to --help-all.
  void begin(std::string title, bool rare = false) { sections_.push_back({std::move(title), rare}); }

  // `names` as the help shows them: "-n, --max-tokens". The targets must outlive parse(); one that is not mentioned on
  // the command line keeps its value. An option that is given twice takes its last value.
  void flag(std::string names, bool& target, std::string help, bool value = true);
  void text(std::string names, std::string placeholder, std::string& target, std::string help);
  void text(std::string names, std::string placeholder, std::optional<std::string>& target, std::string help);
  void number(std::string names, std::string placeholder, int& target, std::string help);
  // "-1" is none.
  void number(std::string names, std::string placeholder, std::optional<std::uint64_t>& target, std::string help);
  void number(std::string names, std::string placeholder, float& target, std::string help);
  void numbers(std::string names, std::string placeholder, std::vector<int>& target, std::string help);  // "1,2,4"
  void texts(std::string names, std::string placeholder, std::vector<std::string>& target, std::string help);
  void number(std::string names, std::string placeholder, std::optional<float>& target, std::string help);
  void number(std::string names, std::string placeholder, std::optional<int>& target, std::string help);
  // An option that may be given several times.
  void repeated(std::string names, std::string placeholder, std::vector<std::string>& target, std::string help);
  // The one argument that is no option; without it parse() fails.
  void positional(std::string name, std::string& target, std::string help);

  // Reads "--name value", "--name=value" and "-n value", and underscores of long names as dashes; after "--" everything
  // is positional. Returns false where --help, -h or --help-all was found: help() is what was asked for then. Throws
  // InvalidInput that names the option for anything it cannot use.
  bool parse(std::span<char* const> arguments);
  std::string help() const;

 private:
  struct Option {
    std::string names;
    std::string placeholder;  // empty: a flag
    std::string help;
    std::function<void(std::string_view)> set;
    std::size_t section = 0;
  };
  struct Section {
    std::string title;
    bool rare = false;
  };

  void add(std::string names, std::string placeholder, std::string help, std::function<void(std::string_view)> set);
  template <class T>
  void add_number(std::string names, std::string placeholder, T& target, std::string help);
  const Option* find(std::string_view name) const;
  std::string unknown_help(std::string_view name) const;
  std::string section_help(std::size_t section) const;
  void take_positional(std::string_view argument);

  std::string usage_, summary_;
  std::vector<Section> sections_ = {{}};  // the first one has no title
  std::vector<Option> options_;
  bool all_ = false;
  std::optional<Option> positional_;
  bool positional_seen_ = false;
};

}  // namespace frspec
