// Tokenizer and StreamDecoder in Python.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "base/error.h"
#include "base/parallel.h"
#include "callbacks.h"
#include "gguf/gguf_file.h"
#include "gil.h"
#include "text.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace nb = nanobind;

namespace frspec {
namespace {

using Counts = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr std::int64_t kTextsPerPiece = 8;  // small: texts differ in length

std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& path) {
  const WithoutGil released;
  const auto file = GgufFile::open(path);
  std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::load(*file);
  for (const std::string& warning : file->warnings()) warn_in_python(warning, 1);
  return tokenizer;
}

// UTF-8 inside `text`, which must stay alive. A lone surrogate raises UnicodeEncodeError, which is a ValueError.
std::string_view view_of(nb::handle text) {
  Py_ssize_t size = 0;
  if (PyUnicode_Check(text.ptr())) {
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (data == nullptr) throw nb::python_error();
    return {data, static_cast<std::size_t>(size)};
  }
  if (PyBytes_Check(text.ptr())) {
    char* data = nullptr;
    if (PyBytes_AsStringAndSize(text.ptr(), &data, &size) != 0) throw nb::python_error();
    return {data, static_cast<std::size_t>(size)};
  }
  throw nb::type_error("text: expected str or bytes");
}

nb::bytes to_bytes(std::string_view bytes) { return nb::bytes(bytes.data(), bytes.size()); }

// Python's integers have no bounds: those that are no TokenId are no token of any vocabulary.
TokenId to_token(const Tokenizer& tokenizer, std::int64_t id) {
  if (id < 0 || id >= tokenizer.size()) {
    fail("token id: found ", id, ", expected 0 to ", tokenizer.size() - 1);
  }
  return static_cast<TokenId>(id);
}

std::string decode(const Tokenizer& tokenizer, const std::vector<std::int64_t>& ids, bool special) {
  std::vector<TokenId> tokens;
  tokens.reserve(ids.size());
  for (const std::int64_t id : ids) tokens.push_back(to_token(tokenizer, id));
  return tokenizer.decode(tokens, special);
}

// Texts of a Python iterable, held so that no other thread can free them meanwhile.
struct Texts {
  explicit Texts(const nb::iterable& texts) {
    for (nb::handle text : texts) {
      held.push_back(nb::borrow(text));
      views.push_back(view_of(text));
    }
  }
  std::vector<nb::object> held;
  std::vector<std::string_view> views;
};

// Calls body(text number, its tokens, worker) for all texts.
template <class Body>
void for_each_encoded(const Tokenizer& tokenizer, const Texts& texts, ThreadPool& pool, bool add_special,
                      const Body& body) {
  pool.parallel_for(static_cast<std::int64_t>(texts.views.size()), kTextsPerPiece,
                    [&](std::int64_t begin, std::int64_t end, int worker) {
                      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
                        body(i, tokenizer.encode(texts.views[i], add_special), worker);
                      }
                    });
}

ThreadPool make_pool(int threads) {
  if (threads < 0) fail("threads: found ", threads, ", expected a number from 1 on, or 0 for all cores");
  return ThreadPool(threads);
}

std::int64_t count(const Tokenizer& tokenizer, const nb::iterable& iterable, const Counts& counts, int threads) {
  const auto vocabulary = static_cast<std::size_t>(tokenizer.size());
  if (counts.size() != vocabulary) {
    fail("counts: found ", counts.size(), " elements, expected ", vocabulary, ", one per token");
  }
  const Texts texts(iterable);
  const WithoutGil released;
  ThreadPool pool = make_pool(threads);
  std::vector<std::vector<std::int64_t>> of_worker(static_cast<std::size_t>(pool.size()));
  for_each_encoded(tokenizer, texts, pool, false, [&](std::size_t, const std::vector<TokenId>& ids, int worker) {
    std::vector<std::int64_t>& own = of_worker[static_cast<std::size_t>(worker)];
    own.resize(vocabulary);
    for (const TokenId id : ids) ++own[static_cast<std::size_t>(id)];
  });
  std::int64_t total = 0;
  for (const std::vector<std::int64_t>& own : of_worker) {
    for (std::size_t id = 0; id < own.size(); ++id) counts.data()[id] += own[id];
    total += std::accumulate(own.begin(), own.end(), std::int64_t{0});
  }
  return total;
}

std::vector<OutputVector<TokenId>> encode_batch(const Tokenizer& tokenizer, const nb::iterable& iterable, int threads,
                                                bool add_special) {
  const Texts texts(iterable);
  std::vector<std::vector<TokenId>> encoded(texts.views.size());
  {
    const WithoutGil released;
    ThreadPool pool = make_pool(threads);
    for_each_encoded(tokenizer, texts, pool, add_special,
                     [&](std::size_t i, std::vector<TokenId>&& ids, int) { encoded[i] = std::move(ids); });
  }
  std::vector<OutputVector<TokenId>> arrays;
  arrays.reserve(encoded.size());
  for (std::vector<TokenId>& ids : encoded) {
    const std::size_t length = ids.size();
    arrays.push_back(to_array<OutputVector<TokenId>>(std::move(ids), {length}));
  }
  return arrays;
}

std::vector<TokenId> control_ids(const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < tokenizer.size(); ++id) {
    if (tokenizer.token_type(id) == TokenType::Control) ids.push_back(id);
  }
  return ids;
}

nb::dict chat_templates(const Tokenizer& tokenizer) {
  nb::dict templates;
  for (const std::string_view name : tokenizer.chat_template_names()) {
    templates[to_str(name)] = to_str(*tokenizer.chat_template(name));
  }
  return templates;
}

nb::list pretokenize(std::string_view pre, nb::handle text) {
  const Pretokenizer* pretokenizer = find_pretokenizer(pre);
  if (pretokenizer == nullptr) fail("pre: found '", pre, "', expected one of pretokenizers()");
  const std::string_view view = view_of(text);
  const std::size_t invalid = first_invalid_utf8(view);
  if (invalid != view.size()) fail("text: found no character at byte offset ", invalid, ", expected valid UTF-8");
  nb::list words;
  pretokenizer->split(view, [&words](std::string_view word) { words.append(to_str(word)); });
  return words;
}

std::vector<std::string_view> pretokenizers() {
  std::vector<std::string_view> known;
  for (const Pretokenizer& entry : all_pretokenizers()) {
    for (const std::string_view name : entry.names) {
      if (!name.empty()) known.push_back(name);
    }
  }
  return known;
}

void bind_pretokenizers(nb::module_& m) {
  m.def("pretokenizers", &pretokenizers, "Known values of ``tokenizer.ggml.pre``.");
  m.def("pretokenize", &pretokenize, nb::arg("pre"), nb::arg("text"),
        nb::sig("def pretokenize(pre: str, text: str | bytes) -> list[str]"),
        "The words that byte-level BPE by this pre-tokenizer works on; together they are the text.\n\n"
        "Raises:\n"
        "    ValueError: The pre-tokenizer is unknown, or the text is not valid UTF-8.");
}

void bind_token_type(nb::module_& m) {
  nb::enum_<TokenType>(m, "TokenType", nb::is_arithmetic(), "What a token is for: as ``tokenizer.ggml.token_type``.")
      .value("UNDEFINED", TokenType::Undefined)
      .value("NORMAL", TokenType::Normal)
      .value("UNKNOWN", TokenType::Unknown)
      .value("CONTROL", TokenType::Control)
      .value("USER_DEFINED", TokenType::UserDefined)
      .value("UNUSED", TokenType::Unused)
      .value("BYTE", TokenType::Byte);
}

void bind_texts(nb::class_<Tokenizer>& tokenizer) {
  tokenizer
      .def(
          "encode",
          [](const Tokenizer& self, nb::handle text, bool add_special, bool parse_special) {
            const std::string_view view = view_of(text);
            const WithoutGil released;
            return self.encode(view, add_special, parse_special);
          },
          nb::arg("text"), nb::arg("add_special") = true, nb::arg("parse_special") = false,
          nb::sig("def encode(self, text: str | bytes, add_special: bool = True, parse_special: bool = False) -> "
                  "list[int]"),
          "Token ids of a text; bytes must be UTF-8.\n\n"
          "Args:\n"
          "    text: The text.\n"
          "    add_special: Put BOS and EOS around it, as the vocabulary asks for.\n"
          "    parse_special: Let the text of a control token become that token (a BOS that the text begins with is\n"
          "        not added once more).\n\n"
          "Raises:\n"
          "    ValueError: The text is not valid UTF-8 (a lone surrogate is not, either), or has a character that the "
          "vocabulary cannot spell.")
      .def("encode_batch", &encode_batch, nb::arg("texts"), nb::arg("threads") = 0, nb::arg("add_special") = true,
           nb::sig("def encode_batch(self, texts: collections.abc.Iterable[str | bytes], threads: int = 0, "
                   "add_special: bool = True) -> list[numpy.typing.NDArray[numpy.int32]]"),
           "Token ids of many texts, in order, by several threads (0: all cores).")
      .def("count", &count, nb::arg("texts"), nb::arg("counts").noconvert(), nb::arg("threads") = 0,
           nb::sig("def count(self, texts: collections.abc.Iterable[str | bytes], "
                   "counts: numpy.typing.NDArray[numpy.int64], threads: int = 0) -> int"),
           "Adds to ``counts[id]`` how often each token occurs in the texts, without BOS and EOS.\n\n"
           "Args:\n"
           "    texts: The texts.\n"
           "    counts: (V,) int64, changed in place.\n"
           "    threads: How many threads to use; 0 for all cores.\n\n"
           "Returns:\n"
           "    The number of tokens.\n\n"
           "Raises:\n"
           "    ValueError: ``counts`` is not of length V, or a text cannot be encoded; ``counts`` is then unchanged.")
      .def(
          "decode",
          [](const Tokenizer& self, const std::vector<std::int64_t>& ids, bool special) {
            return to_str(decode(self, ids, special));
          },
          nb::arg("ids"), nb::arg("special") = false,
          nb::sig("def decode(self, ids: collections.abc.Sequence[int] | numpy.typing.NDArray[numpy.int32], "
                  "special: bool = False) -> str"),
          "The text that the tokens spell; bytes that are not UTF-8 become U+FFFD.\n\n"
          "Args:\n"
          "    ids: Token ids.\n"
          "    special: Spell control tokens, too.\n\n"
          "Raises:\n"
          "    ValueError: An id is not in the vocabulary.")
      .def(
          "decode_bytes",
          [](const Tokenizer& self, const std::vector<std::int64_t>& ids, bool special) {
            return to_bytes(decode(self, ids, special));
          },
          nb::arg("ids"), nb::arg("special") = false,
          nb::sig("def decode_bytes(self, ids: collections.abc.Sequence[int] | numpy.typing.NDArray[numpy.int32], "
                  "special: bool = False) -> bytes"),
          "The bytes that the tokens spell.");
}

void bind_tokens(nb::class_<Tokenizer>& tokenizer) {
  tokenizer
      .def(
          "token_bytes",
          [](const Tokenizer& self, std::int64_t id) { return to_bytes(self.token_bytes(to_token(self, id))); },
          nb::arg("id"), "The bytes that one token spells in the middle of a text.")
      .def(
          "token_text",
          [](const Tokenizer& self, std::int64_t id) { return to_str(self.token_text(to_token(self, id))); },
          nb::arg("id"), nb::sig("def token_text(self, id: int) -> str"), "A token as the vocabulary writes it.")
      .def(
          "token_type", [](const Tokenizer& self, std::int64_t id) { return self.token_type(to_token(self, id)); },
          nb::arg("id"), "What a token is for.")
      .def(
          "is_eog",
          [](const Tokenizer& self, std::int64_t id) { return self.is_end_of_generation(to_token(self, id)); },
          nb::arg("id"), "Whether generation ends with this token (EOS, and its kin like ``<|eot_id|>``).")
      .def(
          "find", [](const Tokenizer& self, nb::handle text) { return self.find(view_of(text)); }, nb::arg("text"),
          nb::sig("def find(self, text: str | bytes) -> int | None"),
          "The id of the token that the vocabulary writes so; None if there is none.")
      .def("control_ids", &control_ids, "Ids of all control tokens, in order.")
      .def("__len__", &Tokenizer::size)
      .def_prop_ro("size", &Tokenizer::size, "Vocabulary size V.")
      .def_prop_ro("vocab_size", &Tokenizer::size, "Vocabulary size V.")
      .def_prop_ro("bos_id", &Tokenizer::bos, "Id of the token that begins texts; None if there is none.")
      .def_prop_ro("eos_id", &Tokenizer::eos, "Id of the token that ends texts; None if there is none.")
      .def_prop_ro("adds_bos", &Tokenizer::adds_bos, "Whether ``encode`` puts BOS before a text.")
      .def_prop_ro("model", &Tokenizer::model, "``\"gpt2\"`` (byte-level BPE) or ``\"llama\"`` (SPM).")
      .def_prop_ro("pre", &Tokenizer::pre, "Name of the pre-tokenizer; empty for SPM.")
      .def_prop_ro("fingerprint", &Tokenizer::fingerprint,
                   "16 hex digits that tell whether two files share a vocabulary.")
      .def_prop_ro(
          "chat_template",
          [](const Tokenizer& self) -> nb::object {
            const auto source = self.chat_template();
            return source ? to_str(*source) : nb::none();
          },
          nb::sig("def chat_template(self) -> str | None"), "The Jinja template of the file, if it has one.")
      .def_prop_ro(
          "chat_templates", &chat_templates, nb::sig("def chat_templates(self) -> dict[str, str]"),
          "All of them by name: ``\"\"`` is the default one, ``\"tool_use\"`` the one for tools, where there is "
          "one.");
}

}  // namespace

void init_tokenizer(nb::module_& m) {
  bind_token_type(m);
  bind_pretokenizers(m);
  nb::class_<Tokenizer> tokenizer(m, "Tokenizer",
                                  "Text to token ids and back, by the vocabulary in a GGUF file.\n\n"
                                  "Any number of threads may use one at once.\n\n"
                                  "Raises:\n"
                                  "    FileNotFoundError: The file is absent or not readable.\n"
                                  "    ValueError: It holds no vocabulary, or one that cannot be used.\n\n"
                                  "Warns:\n"
                                  "    ModelWarning: Something in it was put right, as llama.cpp does.");
  tokenizer.def(nb::new_(&open_tokenizer), nb::arg("path"));
  bind_texts(tokenizer);
  bind_tokens(tokenizer);

  nb::class_<StreamDecoder>(m, "StreamDecoder",
                            "Turns a stream of tokens into text without ever cutting a character.\n\n"
                            "What all calls return, joined, is what ``Tokenizer.decode`` returns for all tokens at "
                            "once.\n\n"
                            "Args:\n"
                            "    tokenizer: The tokenizer.\n"
                            "    begins_text: The tokens begin a text, so that the space that SPM puts there goes.")
      .def(nb::init<const Tokenizer&, bool>(), nb::arg("tokenizer"), nb::arg("begins_text") = false,
           nb::keep_alive<1, 2>())
      .def(
          "push",
          [](StreamDecoder& self, std::int64_t id) {
            if (id != static_cast<TokenId>(id)) fail("token id: found ", id, ", expected one of the vocabulary");
            return std::string(self.push(static_cast<TokenId>(id)));
          },
          nb::arg("id"), "Takes the next token; returns the whole characters that are complete now.")
      .def("finish", &StreamDecoder::finish,
           "Returns what is held back, as U+FFFD; the decoder may then be used again.");
}

}  // namespace frspec
