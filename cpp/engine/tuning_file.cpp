// What a tuner has learned, in a file.
#include "engine/tuning_file.h"

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>

#include "base/error.h"

namespace frspec {
namespace {

constexpr std::string_view kHeader = "frspec tuning 4";  // the number changes with the meaning of the numbers
constexpr std::size_t kMostNumbers = 1 << 16;

std::uint64_t hash(std::string_view bytes, std::uint64_t value = 0xcbf29ce484222325u) {
  for (const char c : bytes) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return value;
}

std::filesystem::path folder() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  const std::string own = variable("FRSPEC_TUNING_CACHE");
  if (own == "off") return {};
  if (!own.empty()) return own;
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) {
    return std::filesystem::path(cache) / "frspec" / "tuning";
  }
  const std::string home = variable("HOME");
  return home.empty() ? std::filesystem::path() : std::filesystem::path(home) / ".cache" / "frspec" / "tuning";
}

}  // namespace

TuningFile::TuningFile(std::string about) : about_(std::move(about)) {
  for (char& c : about_) c = c == '\n' ? ' ' : c;
  const std::filesystem::path where = folder();
  if (where.empty()) return;
  std::ostringstream name;
  name << std::hex << hash(about_) << ".txt";
  path_ = where / name.str();
}

std::optional<std::vector<double>> TuningFile::read() const {
  std::ifstream in(path_);
  std::string header, about;
  std::size_t count = 0;
  if (!std::getline(in, header) || header != kHeader || !std::getline(in, about) || about != about_)
    return std::nullopt;
  if (!(in >> count) || count > kMostNumbers) return std::nullopt;
  std::vector<double> numbers(count);
  for (double& number : numbers) {
    if (!(in >> number) || !std::isfinite(number)) return std::nullopt;
  }
  return numbers;
}

bool TuningFile::write(std::span<const double> numbers) const {
  if (!is_kept()) return false;
  std::error_code failed;
  std::filesystem::create_directories(path_.parent_path(), failed);
  // Several processes may write: each its own file, and the last one stays.
  std::filesystem::path part = path_;
  part += concat(".", ::getpid(), ".part");
  {
    std::ofstream out(part);
    out.precision(9);
    out << kHeader << '\n' << about_ << '\n' << numbers.size() << '\n';
    for (const double number : numbers) out << number << '\n';
    out.close();
    if (!out) {
      std::filesystem::remove(part, failed);
      return false;
    }
  }
  std::filesystem::rename(part, path_, failed);
  if (!failed) return true;
  std::filesystem::remove(part, failed);
  return false;
}

std::string identity_of(const GgufFile& file) {
  constexpr std::uintmax_t kBytes = 1 << 16;
  std::error_code failed;
  const std::uintmax_t size = std::filesystem::file_size(file.path(), failed);
  std::ifstream in(file.path(), std::ios::binary);
  std::string bytes(static_cast<std::size_t>(std::min(size, kBytes)), '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  std::uint64_t value = hash(bytes);
  if (size > kBytes) {
    in.seekg(-static_cast<std::streamoff>(bytes.size()), std::ios::end);
    in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    value = hash(bytes, value);
  }
  std::ostringstream out;
  out << size << '-' << std::hex << value;
  return out.str();
}

}  // namespace frspec
