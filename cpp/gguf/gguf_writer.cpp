// Writing GGUF: numbers are little-endian, as they lie in memory (gguf_parser.cpp checks that).
#include "gguf/gguf_writer.h"

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/text.h"

namespace frspec {
namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::size_t kAlignment = 32;  // the format's default, which needs no key

std::size_t padding(std::size_t bytes) { return (kAlignment - bytes % kAlignment) % kAlignment; }

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, std::uint64_t{text.size()});
  out += text;
}

// A file that is being written; gone unless it was renamed.
class TemporaryFile {
 public:
  TemporaryFile(const std::filesystem::path& path, const std::filesystem::path& temporary)
      : path_(path), temporary_(temporary) {
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) refuse(errno);
  }
  ~TemporaryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!renamed_) ::unlink(temporary_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse(errno);
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  void finish() {
    // Without it a crash of the machine might leave an empty file under the final name.
    if (::fsync(descriptor_) != 0) refuse(errno);
    if (::close(std::exchange(descriptor_, -1)) != 0) refuse(errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) refuse(errno);
    renamed_ = true;
    // The new name, too, should outlast a crash; where a file system cannot promise that, the file is whole anyway.
    const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    (void)::fsync(folder);
    ::close(folder);
  }

 private:
  static std::filesystem::path folder_of(const std::filesystem::path& path) {
    return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  }

  [[noreturn]] void refuse(int error) const {
    const std::string message = concat(
        printable(path_.native()), ": cannot be written, and is what it was: ", std::generic_category().message(error));
    switch (error) {
      case ENOENT:
        throw FileNotFound(message);
      case EACCES:
      case EPERM:
      case EROFS:
      case ENOTDIR:
      case EISDIR:
      case ENAMETOOLONG:
        throw InvalidInput(message);
      default:
        throw Error(message);
    }
  }

  const std::filesystem::path& path_;
  const std::filesystem::path& temporary_;
  int descriptor_ = -1;
  bool renamed_ = false;
};

}  // namespace

void GgufWriter::add_key(std::string_view key, GgufType type) {
  put_string(metadata_, key);
  put(metadata_, type);
  ++keys_;
}

void GgufWriter::add(std::string_view key, std::uint32_t value) {
  add_key(key, GgufType::U32);
  put(metadata_, value);
}

void GgufWriter::add(std::string_view key, std::uint64_t value) {
  add_key(key, GgufType::U64);
  put(metadata_, value);
}

void GgufWriter::add(std::string_view key, std::string_view value) {
  add_key(key, GgufType::String);
  put_string(metadata_, value);
}

void GgufWriter::add_tensor(std::string_view name, DType type, std::size_t count, std::span<const std::byte> data) {
  tensors_.push_back({std::string(name), type, std::uint64_t{count}, data});
}

void GgufWriter::add_tensor(std::string_view name, std::span<const std::int32_t> values) {
  add_tensor(name, DType::I32, values.size(), std::as_bytes(values));
}

void GgufWriter::add_tensor(std::string_view name, std::span<const std::int64_t> values) {
  add_tensor(name, DType::I64, values.size(), std::as_bytes(values));
}

std::string GgufWriter::header() const {
  constexpr std::uint32_t kDimensions = 1;
  std::string out = "GGUF";
  put(out, kVersion);
  put(out, std::uint64_t{tensors_.size()});
  put(out, keys_);
  out += metadata_;
  std::uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    put_string(out, tensor.name);
    put(out, kDimensions);
    put(out, tensor.count);
    put(out, tensor.type);
    put(out, offset);
    offset += tensor.data.size() + padding(tensor.data.size());
  }
  out.append(padding(out.size()), '\0');
  return out;
}

void GgufWriter::write(const std::filesystem::path& path, const std::filesystem::path& temporary) const {
  constexpr std::array<char, kAlignment> kZeros{};
  TemporaryFile file(path, temporary);
  file.write(header());
  for (const Tensor& tensor : tensors_) {
    file.write({reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()});
    file.write({kZeros.data(), padding(tensor.data.size())});
  }
  file.finish();
}

}  // namespace frspec
