// Counts that are kept between sessions, and that several processes keep together: a ranks file (docs/formats.md) with
// the half-life of what it counts.
//
// Who saves takes a lock (on `.NAME.lock` beside the file, which stays: the file itself is replaced), reads what others
// have written since, adds its own and replaces the file. So nothing is lost, and who reads needs no lock.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "tokenizer/tokenizer.h"
#include "vocab/token_counts.h"

namespace frspec {

class CountsFile {
 public:
  // The file need not be there. Throws FileNotFound or InvalidInput where it could not be made.
  CountsFile(const std::filesystem::path& path, std::shared_ptr<const Tokenizer> tokenizer);

  const std::filesystem::path& path() const { return path_; }
  // What the file holds; nothing where there is none. Throws InvalidInput for a damaged file, one of another
  // vocabulary, or one that counts something else and is not ours to replace.
  std::optional<TokenCounts> read() const;
  // Brings `fresh`, what was counted here since the last time, to the file, and returns what it holds now. Where the
  // file is not there (any more), `known`, what it held, makes up for it. Throws Error where the lock is held by
  // others for longer than `patience`, or as read() and GgufWriter::write; the file is what it was then.
  TokenCounts merge(const TokenCounts& fresh, const TokenCounts& known, std::chrono::milliseconds patience) const;

 private:
  void write(TokenCounts& counts) const;

  std::filesystem::path path_, lock_path_, temporary_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace frspec
