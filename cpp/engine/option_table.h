// Every option of an engine and of what it generates, once. The command lines and their help, the keyword arguments of
// Python with their types, defaults and docs, the server's command line and docs/options.md follow from this table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "engine/options.h"

namespace frspec {

// What is chosen, where the table can write it.
struct Choices {
  EngineOptions engine;
  GenerateOptions generate;
  TreeChoice tree;  // until settle()

  // Brings what several options make up to its place. Throws InvalidInput.
  void settle() { engine.tree = tree.shape(); }
};

// A place that takes one of several words.
struct WordPlace {
  void (*set)(Choices& choices, std::string_view word);  // throws InvalidInput for others
  std::string_view usual;
};

template <class T>
using PlaceOf = T& (*)(Choices&);

// Where the value of an option goes; nothing: Python passes it on by itself.
using OptionPlace = std::variant<std::monostate, WordPlace, PlaceOf<bool>, PlaceOf<int>, PlaceOf<float>,
                                 PlaceOf<std::uint64_t>, PlaceOf<std::string>, PlaceOf<std::optional<int>>,
                                 PlaceOf<std::optional<std::filesystem::path>>, PlaceOf<std::vector<std::string>>,
                                 PlaceOf<std::vector<TokenId>>, PlaceOf<std::vector<std::pair<TokenId, float>>>>;

// Sections of the help.
enum class OptionGroup : std::uint8_t {
  Text,
  Drafts,
  Machine,
  MoreText,
  MoreDrafts,
  LongContexts,
  MoreMachine,
  Serving,  // not the binary's, which writes one text
};

struct Option {
  std::string_view name;   // in Python
  std::string_view flags;  // "-n, --max-tokens", the usual ones first; empty: Python's alone
  std::string_view value;  // as the help shows it: "N", "auto|always|never"; empty: a flag that changes a bool
  OptionGroup group = OptionGroup::Text;
  OptionPlace place;
  std::string_view help;         // without a full stop
  std::string_view none = {};    // what holds where nothing is chosen, of an option without a value of its own
  std::string_view more = {};    // sentences that follow in the docs
  std::string_view python = {};  // its type there, where it is not that of its place
};

std::span<const Option> generate_options();  // of each text: GenerateOptions
std::span<const Option> engine_options();    // when an engine is made: EngineOptions
// Throws Error for a name that is not in the table.
const Option& find_option(std::string_view name);

// What `choices` hold for an option, as a command line writes it; empty for a flag, a list, or where that is none.
std::string format_choice(const Option& option, Choices& choices);

}  // namespace frspec
