// Opening (split models included) and typed look-ups.
#include "gguf/gguf_file.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "gguf/gguf_parser.h"
#include "gguf/gguf_values.h"

namespace frspec {
namespace {

constexpr std::int64_t kMaxParts = 65535;  // split.count is a u16

// NAME-00001-of-00003.gguf taken apart; `part` counts from 1.
struct SplitName {
  std::string stem;
  std::int64_t part;
  std::int64_t count;
};

std::optional<std::int64_t> parse_digits(std::string_view text) {
  std::int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value;
}

std::optional<SplitName> parse_split_name(std::string_view name) {
  constexpr std::string_view kPattern = "-00001-of-00003.gguf";
  if (name.size() < kPattern.size()) return std::nullopt;
  const std::string_view tail = name.substr(name.size() - kPattern.size());
  const auto part = parse_digits(tail.substr(1, 5));
  const auto count = parse_digits(tail.substr(10, 5));
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf" || !part || !count) {
    return std::nullopt;
  }
  return SplitName{std::string(name.substr(0, name.size() - kPattern.size())), *part, *count};
}

std::string split_name(std::string_view stem, std::int64_t part, std::int64_t count) {
  char tail[64];
  std::snprintf(tail, sizeof tail, "-%05lld-of-%05lld.gguf", static_cast<long long>(part),
                static_cast<long long>(count));
  return concat(stem, tail);
}

// An integer that a later part of a split model must have, with the value it must have.
void expect_int(const MappedFile& file, const GgufPart& part, std::string_view key, std::int64_t expected) {
  const auto found = part.entry_by_key.find(key);
  if (found == part.entry_by_key.end()) {
    fail(file.name(), ": metadata key ", quoted(key), " is missing, expected ", expected);
  }
  const std::int64_t value = gguf_to_int(file.name(), part.metadata[found->second]);
  if (value != expected) fail(file.name(), ": metadata key ", quoted(key), " is ", value, ", expected ", expected);
}

MappedFile open_part(const std::filesystem::path& path, const FileAccess& access, std::string_view first,
                     std::int64_t part, std::int64_t count) {
  try {
    return MappedFile(path, access);
  } catch (const FileNotFound& error) {
    throw FileNotFound(concat(first, ": part ", part, " of ", count, " is missing: ", error.what()));
  }
}

}  // namespace

std::shared_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& path, const FileAccess& access) {
  std::shared_ptr<GgufFile> file(new GgufFile);
  file->path_ = path;
  file->mappings_.emplace_back(path, access);
  GgufPart part = parse_gguf(file->mappings_.front());
  file->version_ = part.version;
  file->alignment_ = part.alignment;
  file->metadata_ = std::move(part.metadata);
  file->entry_by_key_ = std::move(part.entry_by_key);
  file->append_tensors(part.tensors, file->name());
  file->open_other_parts(access);
  return file;
}

void GgufFile::open_other_parts(const FileAccess& access) {
  const std::int64_t count = find_part_number("split.count").value_or(1);
  const std::int64_t number = find_part_number("split.no").value_or(0);
  const std::optional<SplitName> named = parse_split_name(path_.filename().native());
  if (number != 0) {
    const std::string first = named ? concat(", ", printable(split_name(named->stem, 1, count))) : "";
    fail(name(), ": metadata key \"split.no\" is ", number, ": this is part ", number + 1, " of ", count,
         ", expected the first part", first);
  }
  if (count <= 1) {
    if (named && named->count > 1) {
      fail(name(), ": is named as part ", named->part, " of ", named->count,
           ", but metadata key \"split.count\" is missing, expected ", named->count);
    }
    return;
  }
  if (!named || named->part != 1 || named->count != count) {
    fail(name(), ": metadata key \"split.count\" is ", count, ", so the file name was expected to be ",
         printable(split_name(named ? named->stem : path_.stem().native(), 1, count)));
  }
  const std::int64_t tensor_count = get_int("split.tensors.count");
  mappings_.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 1; i < count; ++i) {
    const std::filesystem::path path = path_.parent_path() / split_name(named->stem, i + 1, count);
    const MappedFile& file = mappings_.emplace_back(open_part(path, access, name(), i + 1, count));
    const GgufPart part = parse_gguf(file);
    expect_int(file, part, "split.no", i);
    expect_int(file, part, "split.count", count);
    if (part.entry_by_key.contains("split.tensors.count")) expect_int(file, part, "split.tensors.count", tensor_count);
    append_tensors(part.tensors, file.name());
  }
  if (static_cast<std::size_t>(tensor_count) != tensors_.size()) {
    fail(name(), ": metadata key \"split.tensors.count\" is ", tensor_count, ", but the ", count, " parts hold ",
         tensors_.size(), " tensors");
  }
}

std::optional<std::int64_t> GgufFile::find_part_number(std::string_view key) const {
  const std::optional<std::int64_t> number = find_int(key);
  if (number && (*number < 0 || *number > kMaxParts)) {
    fail(name(), ": metadata key ", quoted(key), " is ", *number, ", expected 0 to ", kMaxParts);
  }
  return number;
}

void GgufFile::append_tensors(const std::vector<GgufTensor>& tensors, std::string_view part) {
  tensors_.reserve(tensors_.size() + tensors.size());
  for (const GgufTensor& tensor : tensors) {
    if (!tensor_by_name_.emplace(tensor.name, tensors_.size()).second) {
      fail(part, ": tensor ", quoted(tensor.name), " is in an earlier part, too; expected once");
    }
    tensors_.push_back(tensor);
  }
}

std::size_t GgufFile::bytes() const {
  std::size_t total = 0;
  for (const MappedFile& mapping : mappings_) total += mapping.bytes();
  return total;
}

const GgufEntry* GgufFile::find(std::string_view key) const {
  const auto found = entry_by_key_.find(key);
  return found == entry_by_key_.end() ? nullptr : &metadata_[found->second];
}

const GgufEntry& GgufFile::require(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) fail(name(), ": metadata key ", quoted(key), " is missing");
  return *entry;
}

std::optional<std::int64_t> GgufFile::find_int(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  return gguf_to_int(name(), *entry);
}

std::optional<double> GgufFile::find_float(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  if (const auto* value = std::get_if<std::uint64_t>(&entry->value)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<std::int64_t>(&entry->value)) return static_cast<double>(*value);
  const auto* value = std::get_if<double>(&entry->value);
  if (value == nullptr) gguf_fail_type(name(), *entry, "a number");
  if (!std::isfinite(*value))
    fail(name(), ": metadata key ", quoted(key), " is ", *value, ", expected a finite number");
  return *value;
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* value = std::get_if<bool>(&entry->value);
  if (value == nullptr) gguf_fail_type(name(), *entry, "bool");
  return *value;
}

std::optional<std::string_view> GgufFile::find_string(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* value = std::get_if<std::string_view>(&entry->value);
  if (value == nullptr) gguf_fail_type(name(), *entry, "string");
  return *value;
}

const GgufStrings* GgufFile::find_strings(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return nullptr;
  const auto* value = std::get_if<GgufStrings>(&entry->value);
  if (value == nullptr) gguf_fail_type(name(), *entry, "array of string");
  return value;
}

std::optional<std::vector<std::int64_t>> GgufFile::find_ints(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufNumberArray>(&entry->value);
  const bool is_signed = array != nullptr && gguf_is_signed(array->element);
  const bool is_flags = array != nullptr && array->element == GgufType::Bool;
  if (array == nullptr || (!is_signed && !is_flags && !gguf_is_unsigned(array->element))) {
    gguf_fail_type(name(), *entry, "array of integers");
  }
  std::vector<std::int64_t> values(array->count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (is_signed) {
      values[i] = gguf_signed_at(*array, i);
      continue;
    }
    const std::uint64_t value = gguf_unsigned_at(*array, i);
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail(name(), ": metadata key ", quoted(key), " has ", value, " at index ", i, ", expected a number below 2^63");
    }
    values[i] = static_cast<std::int64_t>(value);
  }
  return values;
}

std::optional<std::vector<float>> GgufFile::find_floats(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufNumberArray>(&entry->value);
  if (array == nullptr || !gguf_is_float(array->element)) gguf_fail_type(name(), *entry, "array of f32 or f64");
  std::vector<float> values(array->count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double value = gguf_float_at(*array, i);
    if (std::isfinite(value) && std::abs(value) > static_cast<double>(std::numeric_limits<float>::max())) {
      fail(name(), ": metadata key ", quoted(key), " has ", value, " at index ", i,
           ", expected a number that fits f32");
    }
    values[i] = static_cast<float>(value);
  }
  return values;
}

std::int64_t GgufFile::get_int(std::string_view key) const {
  require(key);
  return *find_int(key);
}

double GgufFile::get_float(std::string_view key) const {
  require(key);
  return *find_float(key);
}

std::string_view GgufFile::get_string(std::string_view key) const {
  require(key);
  return *find_string(key);
}

const GgufStrings& GgufFile::get_strings(std::string_view key) const {
  require(key);
  return *find_strings(key);
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = tensor_by_name_.find(name);
  return found == tensor_by_name_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& GgufFile::tensor(std::string_view name) const {
  const GgufTensor* found = find_tensor(name);
  if (found == nullptr) fail(this->name(), ": tensor ", quoted(name), " is missing");
  return *found;
}

void GgufFile::warn(std::string message) const {
  message = concat(name(), ": ", message);
  const std::scoped_lock lock(warnings_mutex_);
  if (std::ranges::find(warnings_, message) == warnings_.end()) warnings_.push_back(std::move(message));
}

std::vector<std::string> GgufFile::warnings() const {
  const std::scoped_lock lock(warnings_mutex_);
  return warnings_;
}

void GgufFile::release_pages(const std::byte* data, std::size_t bytes) const {
  for (const MappedFile& mapping : mappings_) {
    if (data >= mapping.data() && data + bytes <= mapping.data() + mapping.bytes()) mapping.release(data, bytes);
  }
}

}  // namespace frspec
