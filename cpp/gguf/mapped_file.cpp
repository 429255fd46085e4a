#include "gguf/mapped_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/text.h"

namespace frspec {
namespace {

struct Descriptor {
  int number;
  explicit Descriptor(int n) : number(n) {}
  ~Descriptor() { ::close(number); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

constexpr std::size_t kPiece = std::size_t{16} << 20;  // bytes that are read at once

std::string system_message(int error) { return std::generic_category().message(error); }

// Memory that can be unmapped as a mapping is.
void* fresh_memory(std::size_t bytes) {
  const auto physical =
      static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (bytes > physical) {  // the system would promise it all the same
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

void read_all(int file, std::byte* to, std::size_t bytes, const std::string& name, const FileAccess& access) {
  for (std::size_t done = 0; done < bytes;) {
    if (access.on_piece) access.on_piece();
    const ssize_t count = ::pread(file, to + done, std::min(kPiece, bytes - done), static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(name, ": cannot be read: ", system_message(errno));
    if (count == 0) fail(name, ": was shortened while it was read: found ", done, " bytes, expected ", bytes);
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path, const FileAccess& access)
    : name_(printable(path.native())), mapped_(access.map) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer. It means nothing to a regular file.
  const int number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (number < 0) throw FileNotFound(concat(name_, ": cannot be opened: ", system_message(errno)));
  const Descriptor file(number);

  struct stat status{};
  if (::fstat(file.number, &status) != 0) throw FileNotFound(concat(name_, ": ", system_message(errno)));
  if (S_ISDIR(status.st_mode)) fail(name_, ": is a directory, expected a GGUF file");
  if (!S_ISREG(status.st_mode)) fail(name_, ": is not a regular file, expected a GGUF file");
  if (status.st_size <= 0) fail(name_, ": is empty, expected a GGUF file");
  if (static_cast<std::uint64_t>(status.st_size) > std::numeric_limits<std::size_t>::max() / 2) {
    throw OutOfMemory(concat(name_, ": is too large for the address space (", status.st_size, " bytes)"));
  }
  bytes_ = static_cast<std::size_t>(status.st_size);

  void* address = mapped_ ? ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file.number, 0) : fresh_memory(bytes_);
  if (address == MAP_FAILED) {
    const int error = errno;
    const std::string message =
        concat(name_, ": cannot ", mapped_ ? "map " : "read ", bytes_, " bytes: ", system_message(error));
    if (error == ENOMEM || error == EOVERFLOW) throw OutOfMemory(message);
    throw InvalidInput(message);
  }
  data_ = static_cast<const std::byte*>(address);
  if (mapped_) return;
  try {
    read_all(file.number, static_cast<std::byte*>(address), bytes_, name_, access);
  } catch (...) {
    unmap();
    throw;
  }
  ::mprotect(address, bytes_, PROT_READ);  // as a mapped file is
}

MappedFile::~MappedFile() { unmap(); }

void MappedFile::unmap() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), bytes_);
}

void MappedFile::release(const std::byte* piece, std::size_t bytes) const {
  if (!mapped_) return;
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(piece);
  const std::uintptr_t first = (address + page - 1) / page * page, last = (address + bytes) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : name_(std::move(other.name_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapped_(other.mapped_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

}  // namespace frspec
