// GGUF files, mapped or read into memory, read only: metadata and tensor directory (versions 2 and 3, single or split).
//
// Every offset, count, type, alignment and length is checked against the file while it is opened, so that what is
// handed out afterwards can be trusted: a tensor's data lies whole inside the mapping and overlaps no other tensor.
// What is *inside* a tensor (a NaN scale, a token id past the end) is for its user to check.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "gguf/mapped_file.h"
#include "tensor/dtype.h"

namespace frspec {

// Type numbers of metadata values, as written in the file.
enum class GgufType : std::uint32_t {
  U8 = 0,
  I8 = 1,
  U16 = 2,
  I16 = 3,
  U32 = 4,
  I32 = 5,
  F32 = 6,
  Bool = 7,
  String = 8,
  Array = 9,
  U64 = 10,
  I64 = 11,
  F64 = 12,
};

std::string_view gguf_type_name(GgufType type);  // "u32", "string", "array" ...

// An array of numbers or booleans: raw, possibly unaligned bytes inside the mapping.
struct GgufNumberArray {
  GgufType element;
  std::size_t count;
  const std::byte* data;
};

// An array of arrays: checked, but kept as its element count only (no model uses one).
struct GgufNestedArray {
  std::size_t count;
};

// A metadata value. Integers are widened to 64 bits; strings point into the mapping and live as long as the file. They
// are bytes as the file has them, not necessarily UTF-8.
using GgufStrings = std::vector<std::string_view>;
using GgufValue = std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, GgufNumberArray,
                               GgufStrings, GgufNestedArray>;

struct GgufEntry {
  std::string_view key;
  GgufType type;
  GgufValue value;
};

struct GgufTensor {
  std::string_view name;
  DType type;
  int dims;                           // 1 to 4
  std::array<std::int64_t, 4> shape;  // as in the file: the fastest dimension first, unused ones are 1
  const std::byte* data;
  std::size_t bytes;

  std::int64_t cols() const { return shape[0]; }  // elements of one row
  std::int64_t rows() const { return shape[1] * shape[2] * shape[3]; }
};

class GgufFile {
 public:
  // Opens `path`; where it is the first part of a split model (NAME-00001-of-0000N.gguf), all parts are opened, and the
  // metadata is the first part's. Throws FileNotFound (a part that is missing included), OutOfMemory where the address
  // space has no room for the file, or InvalidInput naming the file and what is wrong with it (opening another part
  // than the first included). A mapped file must not be shortened while it is open.
  static std::shared_ptr<const GgufFile> open(const std::filesystem::path& path, const FileAccess& access = {});
  ~GgufFile() = default;
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::uint32_t version() const { return version_; }
  std::size_t alignment() const { return alignment_; }
  std::size_t bytes() const;  // of all parts

  // Metadata. `find_*` return nothing where the key is absent; a key of an unsuitable type, or a number that does not
  // fit, is always an error that names file, key, found and expected. `get_*` fail where the key is absent, too.
  std::span<const GgufEntry> metadata() const { return metadata_; }
  const GgufEntry* find(std::string_view key) const;
  std::optional<std::int64_t> find_int(std::string_view key) const;  // any integer type
  std::optional<double> find_float(std::string_view key) const;      // f32, f64 or any integer type; must be finite
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  const GgufStrings* find_strings(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> find_ints(std::string_view key) const;  // an array of integers or booleans
  std::optional<std::vector<float>> find_floats(std::string_view key) const;       // of f32 or f64; NaN, inf pass
  std::int64_t get_int(std::string_view key) const;
  double get_float(std::string_view key) const;
  std::string_view get_string(std::string_view key) const;
  const GgufStrings& get_strings(std::string_view key) const;

  // Tensors, in file order over all parts.
  std::span<const GgufTensor> tensors() const { return tensors_; }
  const GgufTensor* find_tensor(std::string_view name) const;
  const GgufTensor& tensor(std::string_view name) const;
  // What readers of the file had to correct or leave out: one line each, kept once. Whoever opened the file shows them
  // (contract 6); any thread may add one.
  void warn(std::string message) const;  // `message` without the file's name
  std::vector<std::string> warnings() const;

  // Gives back the memory that reading this part of a tensor took; it can be read again.
  void release_pages(const std::byte* data, std::size_t bytes) const;

 private:
  GgufFile() = default;
  void open_other_parts(const FileAccess& access);
  std::optional<std::int64_t> find_part_number(std::string_view key) const;
  void append_tensors(const std::vector<GgufTensor>& tensors, std::string_view part);
  const std::string& name() const { return mappings_.front().name(); }
  const GgufEntry& require(std::string_view key) const;

  std::filesystem::path path_;
  std::uint32_t version_ = 0;
  std::size_t alignment_ = 32;
  std::vector<MappedFile> mappings_;  // one per part
  std::vector<GgufEntry> metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> entry_by_key_;
  std::unordered_map<std::string_view, std::size_t> tensor_by_name_;
  mutable std::mutex warnings_mutex_;
  mutable std::vector<std::string> warnings_;
};

}  // namespace frspec
