// A whole file mapped into memory, read only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace frspec {

class MappedFile {
 public:
  // Throws FileNotFound (absent or not readable), InvalidInput (no regular file, or empty), OutOfMemory (larger than
  // the address space has room for).
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& name() const { return name_; }  // the path as it stands in messages
  const std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  // Gives back the memory of the pages that lie wholly inside a piece of the file. Reading them again brings them back.
  void release(const std::byte* piece, std::size_t bytes) const;

 private:
  std::string name_;
  const std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace frspec
