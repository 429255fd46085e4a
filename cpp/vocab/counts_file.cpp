#include "vocab/counts_file.h"

#include <cerrno>
#include <cmath>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/error.h"
#include "base/text.h"
#include "gguf/gguf_writer.h"
#include "vocab/token_ranks.h"

namespace frspec {
namespace {

// What one occurrence counts in the file: decay makes fractions, whose order must outlast many half-lives. The largest
// half-life that is read leaves room for all weights in 63 bits.
constexpr std::uint64_t kUnit = std::uint64_t{1} << 32;
constexpr double kMostWeight = 1073741824.0;  // occurrences of a token, in units: 62 bits
constexpr std::int64_t kLongestHalfLife = 1'000'000'000;
constexpr std::chrono::milliseconds kRetry{5};

// Held until the end of its life, by one process at a time (and by one thread: every opening is a holder of its own).
class FileLock {
 public:
  FileLock(const std::filesystem::path& lock, const std::string& name, std::chrono::milliseconds patience)
      : descriptor_(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) {
      const int error = errno;
      const std::string message =
          concat(name, ": its lock, ", printable(lock.filename().native()),
                 " beside it, cannot be opened for writing: ", std::generic_category().message(error));
      if (error == ENOENT) throw FileNotFound(message);
      throw InvalidInput(message);
    }
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      if (error == EINTR) continue;
      if (error == EWOULDBLOCK && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::sleep_for(kRetry);
        continue;
      }
      ::close(descriptor_);
      if (error == EWOULDBLOCK) throw Error(concat(name, ": is being written by another process"));
      throw Error(concat(name, ": cannot be locked: ", std::generic_category().message(error)));
    }
  }
  ~FileLock() {
    // Closing would not do where the process was forked meanwhile: the child has the descriptor, too.
    ::flock(descriptor_, LOCK_UN);
    ::close(descriptor_);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

std::filesystem::path beside(const std::filesystem::path& path, const char* ending) {
  return path.parent_path() / concat(".", path.filename().string(), ending);
}

// A link would be replaced by the file, and its lock would be another one.
std::filesystem::path resolved(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_symlink(path, ignored) ? std::filesystem::weakly_canonical(path) : path;
}

}  // namespace

CountsFile::CountsFile(const std::filesystem::path& path, std::shared_ptr<const Tokenizer> tokenizer)
    : path_(resolved(path)),
      lock_path_(beside(path_, ".lock")),
      temporary_(beside(path_, ".part")),
      tokenizer_(std::move(tokenizer)) {
  const std::string name = printable(path_.native());
  std::error_code ignored;
  if (!path_.has_filename() || std::filesystem::is_directory(path_, ignored)) {
    fail(name, ": is a directory, expected the name of a ranks file");
  }
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw FileNotFound(concat(name, ": found no folder ", printable(folder.native()), " to keep it in"));
  }
  // Better said now than after a text.
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    fail(name, ": its folder cannot be written to: ", std::generic_category().message(errno));
  }
}

std::optional<TokenCounts> CountsFile::read() const {
  std::error_code ignored;
  if (std::filesystem::symlink_status(path_, ignored).type() == std::filesystem::file_type::not_found) {
    return std::nullopt;
  }
  const auto file = GgufFile::open(path_, {.map = false});
  const std::string name = file->path().string();
  auto ranks = read_ranks(*file, *tokenizer_);
  if (!ranks) fail(name, ": tensor 'token_ranks' is missing: expected a ranks file");
  const auto half_life = file->find_int("frspec.ranks.half_life");
  if (!half_life) {
    fail(name,
         ": key 'frspec.ranks.half_life' is missing: these ranks were not made by adapting, and are not replaced; "
         "expected another name, and this file as the ranks to begin with");
  }
  if (*half_life < 1 || *half_life > kLongestHalfLife) {
    fail(name, ": key 'frspec.ranks.half_life': found ", *half_life, " tokens, expected 1 to ", kLongestHalfLife);
  }
  const std::int64_t counted = file->get_int("frspec.ranks.tokens_counted");
  if (counted < 0) fail(name, ": key 'frspec.ranks.tokens_counted': found ", counted, ", expected 0 or more");
  if (ranks->counts.empty()) fail(name, ": tensor 'token_counts' is missing");
  for (std::size_t id = 0; id < ranks->counts.size(); ++id) {
    if (ranks->counts[id] > kMostWeight) {
      fail(name, ": tensor 'token_counts', entry ", id, ": found ", ranks->counts[id],
           " occurrences, expected at most ", kMostWeight);
    }
  }
  return TokenCounts(std::move(ranks->counts), counted, *half_life);
}

TokenCounts CountsFile::merge(const TokenCounts& fresh, const TokenCounts& known,
                              std::chrono::milliseconds patience) const {
  const FileLock lock(lock_path_, printable(path_.native()), patience);
  TokenCounts merged = read().value_or(known);
  merged.add_later(fresh);
  write(merged);
  return merged;
}

void CountsFile::write(TokenCounts& counts) const {
  std::vector<std::int64_t> stored;
  for (TokenId id = 0; id < counts.vocab(); ++id) {
    stored.push_back(std::llround(counts.weight(id) * static_cast<double>(kUnit)));
  }
  // As frspec-rank orders them: control tokens first.
  std::vector<TokenId> ranked;
  for (TokenId id = 0; id < tokenizer_->size(); ++id) {
    if (tokenizer_->token_type(id) == TokenType::Control) ranked.push_back(id);
  }
  for (const TokenId id : counts.best(counts.vocab())) {
    if (tokenizer_->token_type(id) != TokenType::Control) ranked.push_back(id);
  }
  GgufWriter writer("frspec_ranks");
  writer.add("frspec.ranks.vocab_size", static_cast<std::uint32_t>(tokenizer_->size()));
  writer.add("frspec.ranks.vocab_fingerprint", std::string_view(tokenizer_->fingerprint()));
  writer.add("frspec.ranks.tokens_counted", static_cast<std::uint64_t>(counts.counted()));
  writer.add("frspec.ranks.source", std::string_view("generated texts"));
  writer.add("frspec.ranks.half_life", static_cast<std::uint64_t>(counts.half_life()));
  writer.add("frspec.ranks.count_unit", kUnit);
  writer.add_tensor("token_ranks", ranked);
  writer.add_tensor("token_counts", stored);
  writer.write(path_, temporary_);
}

}  // namespace frspec
