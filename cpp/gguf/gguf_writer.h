// Writes small GGUF files (version 3): metadata of the few types that our own files need, and vectors. A file appears
// whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"
#include "tensor/dtype.h"

namespace frspec {

class GgufWriter {
 public:
  explicit GgufWriter(std::string_view architecture) { add("general.architecture", architecture); }

  // Keys are not checked for being distinct.
  void add(std::string_view key, std::uint32_t value);
  void add(std::string_view key, std::uint64_t value);
  void add(std::string_view key, std::string_view value);
  // The data are not copied: they must stay until write() is done. At least one element.
  void add_tensor(std::string_view name, std::span<const std::int32_t> values);
  void add_tensor(std::string_view name, std::span<const std::int64_t> values);

  // Writes the file under a temporary name in the same folder, brings it to the disk and renames it to `path`; whatever
  // bore either name is replaced. After an error `path` is what it was, and the temporary file is gone. Throws
  // FileNotFound where the folder is missing, InvalidInput where it cannot be written to, Error where writing fails (a
  // full disk); each names `path`.
  void write(const std::filesystem::path& path, const std::filesystem::path& temporary) const;

 private:
  struct Tensor {
    std::string name;
    DType type;
    std::uint64_t count;
    std::span<const std::byte> data;
  };

  void add_key(std::string_view key, GgufType type);
  void add_tensor(std::string_view name, DType type, std::size_t count, std::span<const std::byte> data);
  std::string header() const;  // everything before the tensors' data, padded

  std::string metadata_;
  std::uint64_t keys_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace frspec
