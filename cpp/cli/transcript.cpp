// Writing a text while it is generated.
#include "cli/transcript.h"

#include <sstream>

#include "base/error.h"
#include "cli/terminal.h"

namespace frspec {

void Transcript::follow(Engine& engine, Sequence& sequence) {
  sequence.on_progress([] { return !interrupted(); });
  while (sequence.finish_reason() == FinishReason::None && !interrupted()) add(engine.step(sequence));
  append(sequence.closing_text(), false);
  show();
}

void Transcript::add(std::span<const GeneratedToken> tokens) {
  for (const GeneratedToken& token : tokens) {
    tokens_.push_back(token.id);
    append(token.text, token.drafted);
  }
  show();
}

void Transcript::append(std::string_view piece, bool drafted) {
  text_ += piece;
  for (const char c : piece) {
    // A line break stays uncoloured: some terminals would colour the rest of the line.
    set_color(drafted && c != '\n');
    shown_ += c;
  }
}

void Transcript::set_color(bool drafted) {
  if (!color_ || drafted == colored_) return;
  shown_ += drafted ? kDraftedColor : kPlainColor;
  colored_ = drafted;
}

void Transcript::show() {
  set_color(false);  // whatever happens until the next step, the terminal is left as it was
  if (stream_) write_output(shown_);
  shown_.clear();
}

const char* reason_of(const Sequence& sequence) {
  const FinishReason reason = sequence.finish_reason();
  return reason == FinishReason::None ? "interrupted" : finish_reason_name(reason);
}

void write_statistics(const Sequence& sequence, const std::string& device, bool is_auto) {
  const Stats& stats = sequence.stats();
  std::ostringstream line;
  line.precision(3);
  line << stats.generated_tokens << " tokens (" << reason_of(sequence) << "), " << stats.tokens_per_second()
       << " tokens/s, accepted length " << stats.accepted_length() << " over " << stats.steps << " steps; prompt of "
       << stats.prompt_tokens << " tokens (" << stats.cached_tokens << " cached) " << stats.prefill_seconds
       << " s, draft " << stats.draft_seconds << " s, verify " << stats.verify_seconds << " s; seed " << stats.seed
       << "; " << device;
  if (!stats.ranks.empty()) line << "; ranks: " << stats.ranks;
  write_note(line.str());
  if (stats.tuning && is_auto) write_note(concat("auto: ", stats.tuning->summary));
  if (!stats.drafter_error.empty()) write_note(concat("the drafter failed, and was left alone: ", stats.drafter_error));
}

}  // namespace frspec
