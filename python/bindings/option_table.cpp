// Reading options, and telling what there are.
#include "option_table.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "base/error.h"
#include "engine/option_table.h"
#include "gil.h"
#include "text.h"

namespace nb = nanobind;

namespace frspec {
namespace {

using Tokens = std::vector<TokenId>;

// A Python function as a logits processor: it is given arrays of its own, and what it returns, or what it made of the
// logits in place where it returns None, is taken over.
class PyLogitsProcessor {
 public:
  explicit PyLogitsProcessor(nb::object function) : function_(std::move(function)) {}
  PyLogitsProcessor(const PyLogitsProcessor& other) { copy(other); }
  PyLogitsProcessor& operator=(const PyLogitsProcessor&) = delete;
  ~PyLogitsProcessor() {
    const WithGil gil;
    function_.reset();
  }

  void operator()(std::span<const TokenId> text, std::span<float> logits) const {
    const WithGil gil;
    const nb::object ids = nb::cast(to_array<OutputVector<TokenId>>(Tokens(text.begin(), text.end()), {text.size()}));
    const nb::object values =
        nb::cast(to_array<OutputVector<float>>(std::vector<float>(logits.begin(), logits.end()), {logits.size()}));
    nb::object result = run_python([&] { return function_(ids, values); });
    if (result.is_none()) result = values;
    using Row = nb::ndarray<const float, nb::numpy, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    Row row;
    if (!nb::try_cast(result, row)) {
      fail("logits processor: found ", nb::type_name(result.type()).c_str(),
           ", expected None or a numpy array of float, one for each token");
    }
    if (row.size() != logits.size()) {
      fail("logits processor: found ", row.size(), " values, expected ", logits.size(), ", one for each token");
    }
    std::copy_n(row.data(), row.size(), logits.begin());
  }

 private:
  void copy(const PyLogitsProcessor& other) {
    const WithGil gil;
    function_ = other.function_;
  }

  nb::object function_;
};

// A grammar in Python (frspec_cpp.grammar.TextGrammar).
class PyGrammar final : public Grammar {
 public:
  explicit PyGrammar(nb::object grammar) : grammar_(std::move(grammar)) {}
  PyGrammar(const PyGrammar&) = delete;
  PyGrammar& operator=(const PyGrammar&) = delete;
  ~PyGrammar() override {
    const WithGil gil;
    grammar_.reset();
  }

  void advance(std::span<const TokenId> tokens) override {
    const WithGil gil;
    const nb::object ids = nb::cast(Tokens(tokens.begin(), tokens.end()));
    run_python([&] { return grammar_.attr("advance")(ids); });
  }
  Tokens forced(int most) override {
    const WithGil gil;
    return nb::cast<Tokens>(run_python([&] { return grammar_.attr("forced")(most); }));
  }
  void fill(std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents,
            std::span<std::uint32_t> sets) override {
    const WithGil gil;
    const nb::ndarray<std::uint32_t, nb::numpy, nb::ndim<2>> rows(
        sets.data(), {tokens.size(), sets.size() / tokens.size()}, nb::handle());
    const nb::object ids = nb::cast(Tokens(tokens.begin(), tokens.end()));
    const nb::object above = nb::cast(Tokens(parents.begin(), parents.end()));
    const nb::object masks = nb::cast(rows, nb::rv_policy::reference);
    run_python([&] { return grammar_.attr("fill")(ids, above, masks); });
  }

 private:
  nb::object grammar_;
};

template <class T>
constexpr const char* kExpected = "a list";
template <>
constexpr const char* kExpected<bool> = "a bool";
template <>
constexpr const char* kExpected<int> = "an int";
template <>
constexpr const char* kExpected<float> = "a number";
template <>
constexpr const char* kExpected<std::uint64_t> = "an int";
template <>
constexpr const char* kExpected<std::string> = "a str";
template <>
constexpr const char* kExpected<std::optional<int>> = "an int or None";
template <>
constexpr const char* kExpected<std::optional<std::filesystem::path>> = "a path or None";

template <class T>
void read_value(const Option& option, const nb::handle value, T& to) {
  if (nb::try_cast<T>(value, to)) return;
  throw nb::type_error(concat(option.name, ": found ", nb::repr(value).c_str(), " of type ",
                              nb::type_name(value.type()).c_str(), ", expected ", kExpected<T>)
                           .c_str());
}

void read_option(const Option& option, const nb::handle value, Choices& choices) {
  if (value.is_none() && !option.none.empty()) return;
  const auto read = [&]<class T>(const T& place) {
    if constexpr (std::is_same_v<T, WordPlace>) {
      std::string word;
      read_value(option, value, word);
      place.set(choices, word);
    } else if constexpr (!std::is_same_v<T, std::monostate>) {
      read_value(option, value, place(choices));
    } else if (!value.is_none() && option.name == "logits_processor") {
      choices.generate.logits_processor = PyLogitsProcessor(nb::borrow(value));
    } else if (!value.is_none() && option.name == "grammar") {
      choices.generate.grammar = std::make_shared<PyGrammar>(nb::borrow(value));
    }
  };
  std::visit(read, option.place);
}

void read_all(std::span<const Option> options, const nb::kwargs& keywords, Choices& choices) {
  for (const auto& [key, value] : keywords) {
    const auto name = nb::cast<std::string>(key);
    const auto option = std::find_if(options.begin(), options.end(), [&](const Option& o) { return o.name == name; });
    if (option == options.end()) throw nb::type_error(concat("found an unknown keyword argument '", name, "'").c_str());
    read_option(*option, value, choices);
  }
}

// As Python has it: None for lists, and for what has no value of its own.
nb::object default_of(const Option& option, Choices& choices) {
  if (!option.none.empty()) return nb::none();
  const auto find = [&]<class T>(const T& place) -> nb::object {
    if constexpr (std::is_same_v<T, PlaceOf<bool>>) return nb::bool_(place(choices));
    if constexpr (std::is_same_v<T, PlaceOf<int>>) return nb::int_(place(choices));
    if constexpr (std::is_same_v<T, PlaceOf<std::uint64_t>>) return nb::int_(place(choices));
    const std::string text = format_choice(option, choices);
    // The double of the decimal digits, which the nearest float is not: 0.95.
    if constexpr (std::is_same_v<T, PlaceOf<float>>) return nb::float_(std::stod(text));
    if constexpr (std::is_same_v<T, PlaceOf<std::string>> || std::is_same_v<T, WordPlace>) return to_str(text);
    return nb::none();
  };
  return std::visit(find, option.place);
}

std::string type_of(const Option& option) {
  if (!option.python.empty()) return std::string(option.python);
  const auto find = [&]<class T>(const T&) -> std::string {
    if constexpr (std::is_same_v<T, PlaceOf<bool>>) return "bool";
    if constexpr (std::is_same_v<T, PlaceOf<float>>) return "float";
    if constexpr (std::is_same_v<T, PlaceOf<std::string>>) return "str";
    if constexpr (std::is_same_v<T, PlaceOf<std::optional<std::filesystem::path>>>) return "str | os.PathLike[str]";
    if constexpr (!std::is_same_v<T, WordPlace>) return "int";
    std::string words(option.value);
    for (std::size_t at = 0; (at = words.find('|', at)) != std::string::npos;) words.replace(at, 1, "', '");
    return concat("Literal['", words, "']");
  };
  return concat(std::visit(find, option.place), option.none.empty() ? "" : " | None");
}

nb::list describe(std::span<const Option> options) {
  Choices choices;
  nb::list rows;
  for (const Option& option : options) {
    nb::dict row;
    row["name"] = to_str(option.name);
    row["flags"] = to_str(option.flags);
    row["value"] = to_str(option.value);
    row["type"] = type_of(option);
    row["default"] = default_of(option, choices);
    row["help"] = to_str(option.help);
    row["none"] = to_str(option.none);
    row["more"] = to_str(option.more);
    rows.append(row);
  }
  return rows;
}

}  // namespace

GenerateOptions read_options(const nb::kwargs& keywords) {
  Choices choices;
  read_all(generate_options(), keywords, choices);
  return std::move(choices.generate);
}

EngineOptions read_engine_options(const nb::kwargs& keywords) {
  Choices choices;
  read_all(engine_options(), keywords, choices);
  choices.settle();
  return std::move(choices.engine);
}

void init_option_table(nb::module_& m) {
  m.def(
      "option_table", [] { return nb::make_tuple(describe(generate_options()), describe(engine_options())); },
      nb::sig("def option_table() -> tuple[list[dict[str, typing.Any]], list[dict[str, typing.Any]]]"),
      "The options of a text, and those of an engine: of each its name, flags of the command line, value as its help "
      "shows it, type and default in Python, help, what holds where it is not given, and what the docs say more.");
}

}  // namespace frspec
