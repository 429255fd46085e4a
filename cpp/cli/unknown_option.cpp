// Options of llama.cpp that are not needed here, and names that are spelled wrongly.
#include "cli/unknown_option.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace frspec {
namespace {

struct Foreign {
  std::string_view name, help;
};

constexpr std::string_view kAlways = "llama.cpp's; it is always so here: leave it out";
constexpr std::string_view kNotNeeded = "llama.cpp's; there is no such thing here: leave it out";
constexpr std::string_view kWhole = "llama.cpp's; models are on the device as a whole: leave it out";

// Of the command lines that people bring, what has another name here, or none.
constexpr std::array kForeign = {
    Foreign{"-fa", kAlways},
    Foreign{"--flash-attn", kAlways},
    Foreign{"--no-warmup", kNotNeeded},
    Foreign{"--no-context-shift", kAlways},
    Foreign{"--mlock", kNotNeeded},
    Foreign{"-cnv", "llama.cpp's; expected the command frspec chat"},
    Foreign{"--conversation", "llama.cpp's; expected the command frspec chat"},
    Foreign{"-i", "llama.cpp's; expected the command frspec chat"},
    Foreign{"--interactive", "llama.cpp's; expected the command frspec chat"},
    Foreign{"-st", "llama.cpp's; expected the command frspec generate --chat"},
    Foreign{"--single-turn", "llama.cpp's; expected the command frspec generate --chat"},
    Foreign{"--jinja", kAlways},
    Foreign{"-tb", "llama.cpp's; expected -t, --threads"},
    Foreign{"--threads-batch", "llama.cpp's; expected -t, --threads"},
    Foreign{"-no-cnv", kAlways},
    Foreign{"--no-conversation", kAlways},
    Foreign{"--no-display-prompt", kAlways},
    Foreign{"--simple-io", kAlways},
    Foreign{"-ub", "llama.cpp's; expected -b, --batch-size"},
    Foreign{"--ubatch-size", "llama.cpp's; expected -b, --batch-size"},
    Foreign{"-ctk", "llama.cpp's; expected --cache-type, for keys and values"},
    Foreign{"-ctv", "llama.cpp's; expected --cache-type, for keys and values"},
    Foreign{"--cache-type-k", "llama.cpp's; expected --cache-type, for keys and values"},
    Foreign{"--cache-type-v", "llama.cpp's; expected --cache-type, for keys and values"},
    Foreign{"--spec-draft-n-max", "llama.cpp's; expected --draft-max"},
    Foreign{"-ngl", kWhole},
    Foreign{"--gpu-layers", kWhole},
    Foreign{"--n-gpu-layers", kWhole},
    Foreign{"-ngld", kWhole},
    Foreign{"--samplers", "llama.cpp's; the order of samplers is fixed (docs/sampling.md)"},
    Foreign{"--sampling-seq", "llama.cpp's; the order of samplers is fixed (docs/sampling.md)"},
};

// Letters to put in, to take out or to change, or neighbours to swap, until `a` is `b`.
std::size_t distance(std::string_view a, std::string_view b) {
  const std::size_t width = b.size() + 1;
  std::vector<std::size_t> before(width), last(width), row(width);  // of the rows i - 2, i - 1 and i
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j < width; ++j) {
      const std::size_t changed = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({changed, last[j] + 1, row[j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string_view without_dashes(std::string_view name) {
  return name.substr(std::min(name.size(), name.find_first_not_of('-')));
}

}  // namespace

std::string unknown_option_help(std::string_view name, std::span<const std::string_view> known) {
  const auto* foreign =
      std::find_if(kForeign.begin(), kForeign.end(), [&](const Foreign& other) { return other.name == name; });
  if (foreign != kForeign.end()) return concat(": ", foreign->help);
  const std::string_view word = without_dashes(name);
  std::string_view nearest;
  std::size_t least = word.size() / 3 + 1;  // a third of the letters may be wrong
  for (const std::string_view candidate : known) {
    const std::string_view letters = without_dashes(candidate);
    if (letters.size() < 2) continue;  // any letter is near to any other
    // The beginning of a long name is meant to be that name.
    const bool begins = word.size() >= 3 && letters.starts_with(word);
    const std::size_t letters_wrong = begins ? 0 : distance(word, letters);
    if (letters_wrong < least) {
      least = letters_wrong;
      nearest = candidate;
    }
  }
  return nearest.empty() ? "" : concat(", did you mean ", nearest, "?");
}

}  // namespace frspec
