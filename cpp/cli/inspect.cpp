// Prints what a GGUF file holds.
#include "cli/inspect.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/verdict.h"
#include "gguf/gguf_values.h"
#include "tokenizer/tokenizer.h"
#include "vocab/builtin_ranks.h"

namespace frspec {
namespace {

constexpr std::size_t kFirstText = 5;   // array elements shown to people
constexpr std::size_t kFirstJson = 8;   // and to machines
constexpr std::size_t kTextBytes = 60;  // of a string shown to people

struct Total {
  std::size_t tensors = 0;
  std::size_t bytes = 0;
};

std::map<DType, Total> totals_by_type(const GgufFile& file) {
  std::map<DType, Total> totals;
  for (const GgufTensor& tensor : file.tensors()) {
    Total& total = totals[tensor.type];
    ++total.tensors;
    total.bytes += tensor.bytes;
  }
  return totals;
}

// "1.32 GB", in powers of ten as disks and bandwidths are counted.
std::string readable_bytes(std::size_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB"};
  if (bytes < 1000) return concat(bytes, " B");
  double amount = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  for (; amount >= 999.995 && unit + 1 < std::size(kUnits); ++unit) amount /= 1000;
  char text[48];
  std::snprintf(text, sizeof text, "%.2f %s", amount, kUnits[unit]);
  return text;
}

template <class T>
std::string digits(T number) {
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, number).ptr};
}

// Calls f with the i-th element as the C++ value that prints best: f32 as float, so that 1e-5 stays 1e-05.
template <class F>
void visit_element(const GgufNumberArray& array, std::size_t i, const F& f) {
  if (array.element == GgufType::Bool) return f(gguf_unsigned_at(array, i) != 0);
  if (array.element == GgufType::F32) return f(static_cast<float>(gguf_float_at(array, i)));
  if (array.element == GgufType::F64) return f(gguf_float_at(array, i));
  if (gguf_is_signed(array.element)) return f(gguf_signed_at(array, i));
  f(gguf_unsigned_at(array, i));
}

// Where the ranks of the file's tokens come from; nothing where it has none that an engine could use.
std::string ranks_source(const GgufFile& file) {
  if (file.find_tensor("token_ranks") != nullptr) return "this file";
  if (file.find("tokenizer.ggml.tokens") == nullptr) return {};
  try {
    return builtin_ranks(*Tokenizer::load(file)).source;
  } catch (const InvalidInput&) {
    return {};
  }
}

// ---- for people ----

std::string text_of(std::string_view value) { return quoted(value, kTextBytes); }
std::string text_of(bool value) { return value ? "true" : "false"; }
template <class T>
std::string text_of(T value) {
  return digits(value);
}

std::string array_text(const GgufEntry& entry) {
  std::string text = "[";
  const auto append = [&text](const auto& value) { text += (text.size() > 1 ? ", " : "") + text_of(value); };
  std::size_t count = 0;
  if (const auto* array = std::get_if<GgufNumberArray>(&entry.value)) {
    count = array->count;
    for (std::size_t i = 0; i < std::min(count, kFirstText); ++i) visit_element(*array, i, append);
  } else if (const auto* strings = std::get_if<GgufStrings>(&entry.value)) {
    count = strings->size();
    for (std::size_t i = 0; i < std::min(count, kFirstText); ++i) append((*strings)[i]);
  } else {
    return "[...]";
  }
  return text + (count > kFirstText ? ", ...]" : "]");
}

std::string value_text(const GgufEntry& entry) {
  if (entry.type == GgufType::Array) return array_text(entry);
  if (entry.type == GgufType::F32) return digits(static_cast<float>(std::get<double>(entry.value)));
  if (const auto* value = std::get_if<std::uint64_t>(&entry.value)) return text_of(*value);
  if (const auto* value = std::get_if<std::int64_t>(&entry.value)) return text_of(*value);
  if (const auto* value = std::get_if<double>(&entry.value)) return text_of(*value);
  if (const auto* value = std::get_if<bool>(&entry.value)) return text_of(*value);
  return text_of(std::get<std::string_view>(entry.value));
}

std::size_t array_count(const GgufEntry& entry) {
  if (const auto* array = std::get_if<GgufNumberArray>(&entry.value)) return array->count;
  if (const auto* strings = std::get_if<GgufStrings>(&entry.value)) return strings->size();
  return std::get<GgufNestedArray>(entry.value).count;
}

std::string_view element_name(const GgufEntry& entry) {
  if (const auto* array = std::get_if<GgufNumberArray>(&entry.value)) return gguf_type_name(array->element);
  return std::holds_alternative<GgufStrings>(entry.value) ? "string" : "array";
}

std::string shape_text(const GgufTensor& tensor) {
  std::string text;
  for (int d = 0; d < tensor.dims; ++d) {
    text += (d > 0 ? " x " : "") + std::to_string(tensor.shape[static_cast<std::size_t>(d)]);
  }
  return text;
}

// Lines of left-aligned columns, two spaces apart.
void print_table(std::ostream& out, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      out << "  " << row[c];
      if (c + 1 < row.size()) out << std::string(widths[c] - row[c].size(), ' ');
    }
    out << '\n';
  }
}

void print_text(std::ostream& out, const GgufFile& file, const FileVerdict& verdict) {
  out << printable(file.path().native()) << '\n';
  out << "  GGUF version " << file.version() << ", alignment " << file.alignment() << ", "
      << readable_bytes(file.bytes()) << '\n';

  out << "\nmetadata: " << file.metadata().size() << '\n';
  std::vector<std::vector<std::string>> rows;
  for (const GgufEntry& entry : file.metadata()) {
    std::string type(gguf_type_name(entry.type));
    if (entry.type == GgufType::Array) type = concat(element_name(entry), '[', array_count(entry), ']');
    rows.push_back({printable(entry.key), type, value_text(entry)});
  }
  print_table(out, rows);

  out << "\ntensors: " << file.tensors().size() << '\n';
  rows.clear();
  for (const GgufTensor& tensor : file.tensors()) {
    rows.push_back({printable(tensor.name), std::string(dtype_name(tensor.type)), shape_text(tensor),
                    readable_bytes(tensor.bytes)});
  }
  print_table(out, rows);
  if (const std::string source = ranks_source(file); !source.empty()) out << "\ntoken ranks: " << source << '\n';
  if (!file.tensors().empty()) {
    out << "\ntotals\n";
    rows.clear();
    for (const auto& [type, total] : totals_by_type(file)) {
      rows.push_back({std::string(dtype_name(type)), concat(total.tensors, total.tensors == 1 ? " tensor" : " tensors"),
                      readable_bytes(total.bytes)});
    }
    print_table(out, rows);
  }
  out << "\nruns: " << (verdict.runs() ? concat("yes, as ", verdict.use) : "no") << '\n';
  for (const std::string& reason : verdict.reasons) out << "  " << printable(reason) << '\n';
}

// ---- for machines ----

void write_first(JsonWriter& json, const GgufEntry& entry) {
  json.begin_array(true);
  if (const auto* array = std::get_if<GgufNumberArray>(&entry.value)) {
    const std::size_t count = std::min(array->count, kFirstJson);
    for (std::size_t i = 0; i < count; ++i) visit_element(*array, i, [&json](auto value) { json.value(value); });
  } else if (const auto* strings = std::get_if<GgufStrings>(&entry.value)) {
    for (std::size_t i = 0; i < std::min(strings->size(), kFirstJson); ++i) json.value((*strings)[i]);
  }
  json.end_array();
}

void write_entry(JsonWriter& json, const GgufEntry& entry) {
  json.key(entry.key);
  json.begin_object();
  json.member("type", gguf_type_name(entry.type));
  if (entry.type == GgufType::Array) {
    json.member("element_type", element_name(entry));
    json.member("count", array_count(entry));
    json.key("first");
    write_first(json, entry);
  } else {
    json.key("value");
    const bool is_f32 = entry.type == GgufType::F32;
    std::visit(
        [&json, is_f32](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<T, double>) {
            is_f32 ? json.value(static_cast<float>(value)) : json.value(value);
          } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string_view>) {
            json.value(value);
          }
        },
        entry.value);
  }
  json.end_object();
}

void write_tensor(JsonWriter& json, const GgufTensor& tensor) {
  json.begin_object();
  json.member("name", tensor.name);
  json.member("type", dtype_name(tensor.type));
  json.key("shape");
  json.begin_array(true);
  for (int d = 0; d < tensor.dims; ++d) json.value(tensor.shape[static_cast<std::size_t>(d)]);
  json.end_array();
  json.member("bytes", tensor.bytes);
  json.end_object();
}

void print_json(std::ostream& out, const GgufFile& file, const FileVerdict& verdict) {
  JsonWriter json(out, 2);
  json.begin_object();
  json.member("path", std::string_view(file.path().native()));
  json.member("version", file.version());
  json.member("alignment", file.alignment());
  json.member("bytes", file.bytes());
  json.key("metadata");
  json.begin_object();
  for (const GgufEntry& entry : file.metadata()) write_entry(json, entry);
  json.end_object();
  json.key("tensors");
  json.begin_array();
  for (const GgufTensor& tensor : file.tensors()) write_tensor(json, tensor);
  json.end_array();
  json.key("totals");
  json.begin_object();
  for (const auto& [type, total] : totals_by_type(file)) {
    json.key(dtype_name(type));
    json.begin_object();
    json.member("tensors", total.tensors);
    json.member("bytes", total.bytes);
    json.end_object();
  }
  json.end_object();
  if (const std::string source = ranks_source(file); !source.empty())
    json.member("token_ranks", std::string_view(source));
  json.key("runs");
  json.value(verdict.runs());
  json.key("reasons");
  json.begin_array();
  for (const std::string& reason : verdict.reasons) json.value(std::string_view(reason));
  json.end_array();
  json.end_object();
  out << '\n';
}

}  // namespace

void print_inspection(std::ostream& out, const std::shared_ptr<const GgufFile>& file, bool json) {
  const FileVerdict verdict = judge(file);
  json ? print_json(out, *file, verdict) : print_text(out, *file, verdict);
}

}  // namespace frspec
