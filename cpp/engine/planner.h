// What to draft with in the next step, and what the steps have shown: a Tuner with its rules for each sequence, and the
// file that keeps what it has learned.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "draft/drafting.h"
#include "engine/options.h"
#include "engine/stats.h"
#include "engine/tuner.h"
#include "engine/tuning_file.h"
#include "verify/verifier.h"

namespace frspec {

class Planner {
 public:
  // For these ways of drafting. `about`: all else that changes what is learned (TuningFile).
  Planner(std::vector<TimedArm> arms, const DraftOptions& options, const std::string& about);
  ~Planner();
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  // The rules for the text that is planned, which is alone or among others (write_among).
  Tuner& tuner() { return among_ && among_others_ ? *among_ : tuner_; }
  const Tuner& tuner() const { return tuner_; }
  // What comes is about a text, drawn at random or not, that is written with so many others. Whether drafts pay differs
  // then: a row more costs more beside others, and a second is worth the tokens of all.
  void write_among(const Tuner::Pass& pass, bool noisy);
  void begin_text(bool noisy);

  // The next step of a sequence that may be drafted, behind `steps` others.
  Tuner::Plan next(const GenerateOptions& options, std::int64_t steps, const Tuner::Outlook& text);
  // Whether it may be planned as the last one was, before it is known what that one has shown.
  bool is_steady(const GenerateOptions& options, const Tuner::Plan& last) const {
    return last.planned && options.draft != DraftMode::Sparse && tuner_.is_steady();
  }
  // What decides how far a tree grows; null: it has the shape that the drafter was made with.
  Growth* growth(const GenerateOptions& options) {
    return tuner_.grows() && options.verify == VerifyMode::Keyed ? &tuner() : nullptr;
  }
  // What `step` shows with the nodes of its tree that the target reached; the parents of all nodes are read back.
  void look_at(Tuner::Step& step, const DraftTree& tree, const Verdict& verdict, const Drafter& drafter,
               Backend& backend);

  // What was found best so far, for people.
  Tuning found() const;
  // Writes what was learned to the file, for the next process; not more often than every two seconds: many short
  // sequences are not worth a file each.
  void keep();

 private:
  Tuner tuner_;
  std::vector<std::int32_t> parents_;  // of a tree's nodes: scratch of look_at
  std::optional<Tuner> among_;         // of texts among others; it begins with what is known by then
  bool among_others_ = false;
  std::optional<TuningFile> file_;  // none: trees of a fixed shape are a user's own choice, and soon judged
  std::chrono::steady_clock::time_point kept_ = {};
};

}  // namespace frspec
