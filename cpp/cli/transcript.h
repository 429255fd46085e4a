// What has been generated so far, and its way to the terminal.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"

namespace frspec {

inline constexpr std::string_view kDraftedColor = "\x1b[30;42m";  // black on green: readable whatever the terminal's
inline constexpr std::string_view kPlainColor = "\x1b[0m";        // colours

class Transcript {
 public:
  // `stream`: text is written as it comes; `color`: what was drafted is coloured.
  Transcript(bool stream, bool color) : stream_(stream), color_(color) {}

  // Writes a sequence to its end, or until Ctrl-C.
  void follow(Engine& engine, Sequence& sequence);

  const std::string& text() const { return text_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }

 private:
  void add(std::span<const GeneratedToken> tokens);
  void append(std::string_view piece, bool drafted);
  void set_color(bool drafted);
  void show();

  bool stream_, color_;
  bool colored_ = false;
  std::string shown_;  // to be written at the end of the step
  std::string text_;
  std::vector<TokenId> tokens_;
};

// "stop", "length", "interrupted".
const char* reason_of(const Sequence& sequence);

// Notes what a sequence has cost, and what `auto` found.
void write_statistics(const Sequence& sequence, const std::string& device, bool is_auto);

}  // namespace frspec
