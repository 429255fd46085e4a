// The options of a text.
#include "text_options.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "base/error.h"
#include "gil.h"

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
    nb::object result = function_(ids, values);
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
    grammar_.attr("advance")(Tokens(tokens.begin(), tokens.end()));
  }
  Tokens forced(int most) override {
    const WithGil gil;
    return nb::cast<Tokens>(grammar_.attr("forced")(most));
  }
  void fill(std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents,
            std::span<std::uint32_t> sets) override {
    const WithGil gil;
    const nb::ndarray<std::uint32_t, nb::numpy, nb::ndim<2>> rows(
        sets.data(), {tokens.size(), sets.size() / tokens.size()}, nb::handle());
    grammar_.attr("fill")(Tokens(tokens.begin(), tokens.end()), Tokens(parents.begin(), parents.end()),
                          nb::cast(rows, nb::rv_policy::reference));
  }

 private:
  nb::object grammar_;
};

// The keyword arguments of a text; every one of them must be known.
class Keywords {
 public:
  explicit Keywords(const nb::kwargs& values) : values_(values) {}

  template <class T>
  void read(const char* name, T& to) {
    if (!values_.contains(name)) return;
    ++read_;
    if (!nb::try_cast<T>(values_[name], to)) {
      const nb::object value = values_[name];
      throw nb::type_error(
          concat(name, ": found ", nb::repr(value).c_str(), " of type ", nb::type_name(value.type()).c_str()).c_str());
    }
  }
  void expect_all_read() const {
    if (read_ != values_.size()) throw nb::type_error("Engine.begin: found an unknown keyword argument");
  }

 private:
  const nb::kwargs& values_;
  std::size_t read_ = 0;
};

}  // namespace

GenerateOptions read_options(const nb::kwargs& values) {
  Keywords from(values);
  GenerateOptions o;
  from.read("max_tokens", o.max_tokens);
  from.read("min_tokens", o.min_tokens);
  from.read("ignore_eos", o.ignore_eos);
  std::string draft = "auto";
  from.read("draft", draft);
  o.draft = parse_draft_mode(draft);
  std::string verify = "keyed";
  from.read("verify", verify);
  o.verify = parse_verify_mode(verify);
  from.read("stop", o.stop);
  from.read("stop_token_ids", o.stop_tokens);
  from.read("logprobs", o.logprobs);
  from.read("trace", o.trace);
  from.read("reuse", o.reuse);
  from.read("salt", o.salt);
  SamplingOptions& s = o.sampling;
  from.read("temperature", s.temperature);
  from.read("dynatemp_range", s.dynatemp_range);
  from.read("dynatemp_exponent", s.dynatemp_exponent);
  from.read("top_k", s.top_k);
  from.read("top_p", s.top_p);
  from.read("min_p", s.min_p);
  from.read("typical_p", s.typical_p);
  from.read("repeat_penalty", s.repeat_penalty);
  from.read("frequency_penalty", s.frequency_penalty);
  from.read("presence_penalty", s.presence_penalty);
  from.read("repeat_last_n", s.repeat_last_n);
  from.read("logit_bias", s.logit_bias);
  from.read("seed", s.seed);
  nb::object processor = nb::none();
  from.read("logits_processor", processor);
  if (!processor.is_none()) o.logits_processor = PyLogitsProcessor(std::move(processor));
  nb::object grammar = nb::none();
  from.read("grammar", grammar);
  if (!grammar.is_none()) o.grammar = std::make_shared<PyGrammar>(std::move(grammar));
  from.expect_all_read();
  return o;
}

}  // namespace frspec
