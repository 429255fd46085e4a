// POSIX open, fstat, mmap.
#include "gguf/mapped_file.h"

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

std::string system_message(int error) { return std::generic_category().message(error); }

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : name_(printable(path.native())) {
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

  void* address = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (address == MAP_FAILED) {
    const int error = errno;
    const std::string message = concat(name_, ": cannot map ", bytes_, " bytes: ", system_message(error));
    if (error == ENOMEM || error == EOVERFLOW) throw OutOfMemory(message);
    throw InvalidInput(message);
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), bytes_);
}

void MappedFile::release(const std::byte* piece, std::size_t bytes) const {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(piece);
  const std::uintptr_t first = (address + page - 1) / page * page, last = (address + bytes) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : name_(std::move(other.name_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace frspec
