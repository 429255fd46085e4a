// What to draft with, and whether at all: learned from the steps themselves, kept from text to text.
//
// An arm is a draft head and a tree shape. What it gives and what it costs is known from steps that ran it, and told
// from other steps as far as they show it:
//   - the accepted nodes of a tree say how many a smaller one would have held (their ranks by score), and how many of
//     their tokens another head would have found: rho, the acceptance ratio of a head;
//   - a step costs the drafter's layers for each level, the head for each level, and a pass of the target that is as
//     long as it was with trees of that size, or lies between those of smaller and larger ones: nu and kappa.
// The arm with the most tokens per second is run, or none, where plain decoding gives more. Steps that are made to
// learn something may cost a small share of all time, so a useless drafter costs next to nothing.
// The text does not depend on any of it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tree/draft_tree.h"

namespace frspec {

class Tuner {
 public:
  // Seconds that choosing children takes: of the root, and of the nodes of one level.
  struct Head {
    std::string name;
    double root_seconds = 0.0;
    double level_seconds = 0.0;
  };
  struct Plan {
    bool drafts = false;
    int head = 0, shape = 0;
    bool planned = false;  // by next(): other steps tell what they cost, and are nobody's loss
  };
  // An accepted node of a tree: its place among the tree's nodes by score, from 0, and the heads that hold its token (a
  // bit for each).
  struct Accepted {
    int rank = 0;
    std::uint32_t heads = ~0u;
  };
  struct Step {
    Plan plan;
    double draft_seconds = 0.0;
    double seconds = 0.0;           // of all of it
    double catch_up_seconds = 0.0;  // beside it: telling the drafter of plain steps before
    int tokens = 0;                 // that it gave
    std::vector<Accepted> accepted;
    // Whether the ranks are known, so that the step tells of smaller trees.
    bool is_ranked = false;

    // Another step begins, in the memory of this one.
    void begin() {
      std::vector<Accepted> memory = std::move(accepted);
      memory.clear();
      *this = {};
      accepted = std::move(memory);
    }
  };

  // The first head is the one that misses least: rho is measured against it. The shapes, the smallest first; the last
  // one holds all others. None: there is nothing to draft with.
  Tuner(std::vector<Head> heads, std::vector<TreeShape> shapes);

  // How long a pass of the target takes with one row, and with the largest tree, before any step was made.
  void know_target(double plain_seconds, double largest_seconds);
  // Forgets what was accepted so far, not what it cost: after a text that says nothing.
  void keep_costs();
  // A new text may be another kind of text: a pause is cut short.
  void begin_text();
  // The next step. `may_pause`: whether it may be a plain one.
  Plan next(bool may_pause);
  // How many steps more may be made as the last one was planned, before next() is asked again: where nothing else is to
  // be learned, and steps begin before it is known what the last ones have shown. again() plans each of them.
  int steady_steps() const;
  Plan again();
  void add(const Step& step);

  const std::vector<Head>& heads() const { return heads_; }
  const std::vector<TreeShape>& shapes() const { return shapes_; }

  // What was found, in the terms of heads.md: for the best arm.
  struct Choice {
    Plan plan;
    double rho = 0.0;                      // accepted drafts over those of the first head
    double nu = 0.0;                       // the head's time over the first one's
    double kappa = 0.0;                    // the first head's time over the rest of the step
    double tokens_per_second = 0.0;        // expected with the arm; 0: nothing was drafted yet
    double plain_tokens_per_second = 0.0;  // 0: no plain step was made yet
  };
  Choice choice() const;
  // What is expected of an arm: tokens of a step, and its seconds.
  double tokens(int head, int shape) const { return 1.0 + drafts_of_shape(shape) * ratio(head); }
  double seconds(int head, int shape) const;

 private:
  // A mean in which the latest values count most.
  struct Mean {
    double value = 0.0;
    double count = 0.0;
    void add(double x);
  };
  // The median of the latest durations: a step that was interrupted says nothing.
  class Duration {
   public:
    void add(double seconds);
    double value() const { return median_; }
    int count() const { return count_; }
    bool is_sure() const { return count_ >= kSure; }

   private:
    static constexpr int kKept = 31, kSure = 5;
    std::array<double, kKept> latest_ = {};
    int count_ = 0;
    double median_ = 0.0;
  };
  static constexpr double kMemory = 256.0;
  static constexpr double kPrior = 2.0;        // steps that a guess of the accepted length counts for
  static constexpr double kLearning = 0.012;   // share of all time that may be lost by learning
  static constexpr double kOldMemory = 16.0;   // steps that what was learned counts for once drafting has paused
  static constexpr double kHope = 0.4;         // tokens that an arm may be better than one step of it showed
  static constexpr double kHysteresis = 1.02;  // an arm must be better by that much to replace the one that runs
  static constexpr int kFirstPlain = 3;        // plain steps at first
  // Drafted steps between two plain ones that measure plain decoding: few at first, when little is known.
  static constexpr int kLeastPlainInterval = 8, kMostPlainInterval = 128;
  // Drafted steps between two surveys, likewise.
  static constexpr int kLeastSurveyInterval = 2, kMostSurveyInterval = 32;

  std::size_t index(int head, int shape) const {
    return static_cast<std::size_t>(head) * shapes_.size() + static_cast<std::size_t>(shape);
  }
  double ratio(int head) const;
  double drafts_of_shape(int shape) const;  // accepted with the first head
  double head_seconds(int head, int shape) const;
  double target_seconds(int shape) const { return expected_target_[static_cast<std::size_t>(shape)]; }
  double layers_seconds(int shape) const;
  void expect_target();
  double rate(int head, int shape) const { return tokens(head, shape) / seconds(head, shape); }
  double hoped_rate(int head, int shape) const;
  Plan best_arm() const;
  // Whether a tree costs more than plain decoding even if all of its levels were accepted.
  bool is_hopeless(int shape) const;
  Plan choose(bool may_pause);
  void watch(double loss);
  void forget();
  void learn_acceptance(const Step& step);

  std::vector<Head> heads_;
  std::vector<TreeShape> shapes_;
  std::vector<Duration> arms_;            // heads x shapes: of whole steps
  std::vector<Mean> drafts_;              // by shape: accepted drafts, as the first head would have had them
  std::vector<Duration> target_seconds_;  // by shape: of a step without its drafting
  std::vector<double> expected_target_;   // by shape: what steps are expected to take beside their drafting
  std::vector<double> found_, asked_;     // by head: accepted tokens of surveys that it holds, and all of them
  Duration plain_seconds_;
  Duration layer_seconds_;  // of the drafter's layers, for each level and once for the text
  Plan current_, last_;     // the arm that runs; what next() said
  // What was lost, and the time of all steps that this may be a share of: by drafting, where a text is free to go
  // without, compared with plain decoding; and by surveys, compared with the best arm.
  struct Budget {
    double lost = 0.0, seconds = 0.0, allowance = 0.0;
    void add(double loss) { lost = lost + loss > 0.0 ? lost + loss : 0.0; }
    bool may_lose(double loss) const { return lost + loss <= kLearning * seconds + allowance; }
  };
  Budget trials_, surveys_;
  double risk_ = 0.0;  // what drafting has lost since it paused last; below 0: gained
  int pause_left_ = 0, pause_length_ = 0;
  bool free_ = false;            // whether the planned step may be a plain one
  double surveys_beside_ = 0.0;  // tokens per second of the arm that a survey stands in for; 0: the step is none
  int since_plain_ = 0, plain_interval_ = kLeastPlainInterval, since_survey_ = 0,
      survey_interval_ = kLeastSurveyInterval;
  int surveys_made_ = 0, trials_made_ = 0;
};

// The shapes that a tuner may choose from, the smallest first; `largest` is the last one.
std::vector<TreeShape> shapes_up_to(const TreeShape& largest);

}  // namespace frspec
