// A whole file in memory, read only: mapped into it, or read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>

namespace frspec {

// How a file comes into memory.
struct FileAccess {
  // Mapped: its pages are read when they are needed, and processes share them. It must not change meanwhile: whoever
  // touches a page behind the end of a file that was shortened is killed (SIGBUS). Otherwise all of it is read at once.
  bool map = true;
  std::function<void()> on_piece = {};  // called now and then while it is read; what it throws ends the reading
};

class MappedFile {
 public:
  // Throws FileNotFound (absent or not readable), InvalidInput (no regular file, empty, or shortened while it was
  // read), OutOfMemory (larger than the address space, or where it is read the memory, has room for).
  explicit MappedFile(const std::filesystem::path& path, const FileAccess& access = {});
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& name() const { return name_; }  // the path as it stands in messages
  const std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  // Gives back the memory of the pages that lie wholly inside a piece of a mapped file. Reading them again brings them
  // back.
  void release(const std::byte* piece, std::size_t bytes) const;

 private:
  void unmap();

  std::string name_;
  const std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  bool mapped_ = true;
};

}  // namespace frspec
