// What a tuner has learned of a pair on a machine, kept from process to process: one small file for each pair, in the
// user's cache folder. It may be deleted at any time; one that is damaged or of another version is as good as none.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gguf/gguf_file.h"

namespace frspec {

class TuningFile {
 public:
  // `about`: the models and all that changes what is learned of them; two different ones never share a file.
  // The folder is FRSPEC_TUNING_CACHE, or frspec/tuning in XDG_CACHE_HOME or ~/.cache. With FRSPEC_TUNING_CACHE=off, or
  // without a home, nothing is kept.
  explicit TuningFile(std::string about);

  bool is_kept() const { return !path_.empty(); }
  const std::filesystem::path& path() const { return path_; }
  // Nothing where there is no such file, or it is no good.
  std::optional<std::vector<double>> read() const;
  // Whole or not at all. Returns false where it cannot be written: a cache is no reason to fail.
  bool write(std::span<const double> numbers) const;

 private:
  std::string about_;
  std::filesystem::path path_;
};

// A few bytes that tell a model's file from others, wherever it lies: its size, its beginning and its end.
std::string identity_of(const GgufFile& file);

}  // namespace frspec
