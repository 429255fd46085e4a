// What to draft with, how far, and whether at all: the decision, step by step.
//
// The ratio that is maximised is expected tokens over expected seconds. At its best value L, tokens per second, a node
// belongs into the tree if the probability that it is accepted is above L times the seconds that its row adds to the
// target's pass; a level is drafted if what it is expected to add is above L times its seconds; and a step drafts at
// all if its tree is expected to be worth more than what drafting it costs. So trees grow deep where the drafter is
// sure and not at all where it is not. Probabilities are Acceptance's, seconds are RowCosts', L is what the latest
// steps gave, and no less than plain decoding gives. The text does not depend on any of it.
//
// Of several texts, all wait for the drafts of each. So none drafts there for hope: one of them tries, and the others
// follow when it pays. What a drafter must read before it drafts a text at all is to be earned by what is left of it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "draft/arms.h"
#include "engine/acceptance.h"
#include "engine/costs.h"
#include "tree/growth.h"

namespace frspec {

class Tuner final : public Growth {
 public:
  // So many rows a drafter reads for any step: they are not split, and count as free.
  static constexpr int kUsualRows = 16;

  using Arm = TimedArm;
  struct Plan {
    bool drafts = false;  // with the drafter; what the text repeats is proposed in any case
    int arm = 0;
    bool planned = false;  // by next(): other steps are told of, but were nobody's choice
    bool forced = false;   // there must be a draft
    int reads = 0;         // rows that the drafter reads meanwhile, of more that it needs before it can draft
  };
  // A text whose next step is planned.
  struct Outlook {
    std::uint64_t id = 0;
    std::int64_t written = 0, left = 0;     // tokens: so far, and that may still come
    int piece = 0;                          // rows that the drafter may read in this step, where there are many
    std::function<int()> unread = nullptr;  // rows that it has to read before it can draft
  };
  // A node of the tree that the target reached, and a child of it.
  struct Trial {
    std::uint16_t cell = 0;
    bool accepted = false;
  };
  // How far a tree grew.
  struct Level {
    int rows;
    double seconds;
  };
  struct Growing {
    std::vector<Level> levels = {};
    double worth_of_repeated = 0.0;  // tokens, without the drafter
    double likeliest = 0.0;          // chance of the best node
  };
  // The pass that a step is a part of.
  struct Pass {
    int texts = 1;  // that wait for it, this one among them
    int rows = 0;   // of the pass, beside this text's root and drafts
  };
  struct Step {
    Plan plan;
    Pass pass = {};
    Growing growing = {};                  // of its tree
    bool drafted = false;                  // the drafter was asked
    int rows = 1;                          // of the text's tree
    int read_rows = 0;                     // rows that the drafter was told of, or had to read
    double read_seconds = 0.0;             // that this took
    double grown_seconds = 0.0;            // of proposing
    double target_seconds = 0.0;           // of the pass and the verdict; 0: another text's step has told
    int accepted = 0;                      // drafts
    double expected = 0.0;                 // accepted drafts that the tree's notes promised
    bool has_notes = false;                // whether they did
    std::vector<Trial> nodes = {};         // children of reached nodes
    std::vector<Trial> parents = {};       // reached nodes that had children: whether it was one of them
    std::vector<std::uint32_t> held = {};  // of each token that the step gave: the arms whose heads held it

    // Another step begins, in the memory of this one.
    void begin();
    void reserve(std::size_t nodes);  // of trees
  };

  // `arms`: the head that misses least first; none: there is no drafter, but perhaps repetitions. `grows`: whether
  // trees grow as far as this says; else they have a fixed shape of so many levels. `clock`: seconds; for simulations.
  Tuner(std::vector<Arm> arms, bool grows, int levels, std::function<double()> clock = {});

  const std::vector<Arm>& arms() const { return arms_; }
  bool grows() const { return grows_; }
  bool knows_costs() const { return target_.is_known(); }
  void know_target(int rows, double seconds) { target_.add(rows, seconds); }

  // Another text begins; it may be of another kind. `noisy`: at a temperature above 0.
  void begin_text(bool noisy);
  // What was learned of texts that were alone is all that is known of those that are written with others.
  void join(const Pass& pass);
  // The next step. `may_pause`: whether it may be a plain one.
  Plan next(bool may_pause, const Outlook& text);
  // Whether the next step may be made as the last one was planned: nothing else is to be learned, and it may begin
  // before it is known what the last one has shown. again() plans it.
  bool is_steady() const;
  Plan again();
  // The drafter is about to be asked, and has answered: the time in between is its own.
  void begin_growth(const Plan& plan);
  const Growing& end_growth();
  // Of the text that is planned next; the rate of all of them is what counts.
  void set_pass(const Pass& pass) { pass_ = pass; }
  const Pass& pass() const { return pass_; }
  void set_noisy(bool noisy) { noisy_ = noisy; }  // for texts that take turns
  void add(const Step& step);
  // Trees of each of these many nodes per level are grown, whatever they promise, and a few nodes of them verified: to
  // learn what growing costs. Empty: no more.
  void rehearse(std::vector<int> widths) { rehearsal_ = std::move(widths); }

  NodeNote judge(const NodeNote& parent, float score, int depth) const override {
    return acceptance_.judge(parent, score, depth);
  }
  NodeNote judge_repeated(const NodeNote& parent, int matched, int depth) const override {
    return acceptance_.judge_repeated(parent, matched, depth);
  }
  bool drafts_beside(std::span<const float> repeated) override;
  int width(std::span<const NodeNote> frontier, std::span<const float> chances) override;
  int size(std::span<const float> chances) const override;

  // What was found, for people.
  struct Choice {
    int arm = 0;
    bool drafts = false;  // whether that beats plain decoding
    double nodes = 0.0;   // of a tree, the root included
    double levels = 0.0;  // of it
    double gain = 0.0;    // accepted drafts of a drafted step, expected
    double cost = 0.0;    // of drafting and verifying them, in tokens that might have been written meanwhile
    double tokens_per_second = 0.0;
    double plain_tokens_per_second = 0.0;
  };
  Choice choice() const;

  // What is worth keeping from process to process, as numbers; restore() returns false for numbers of another kind.
  std::vector<double> numbers() const;
  bool restore(std::span<const double> numbers);

 private:
  // A mean in which the latest values count most.
  struct Mean {
    double value = 0.0;
    double count = 0.0;
    void add(double x, double memory);
  };
  // What is known of one translation.
  struct Family {
    double seen = 0.0;  // drafted steps
    Mean worth;         // of a drafted step, in tokens: what it gave less what it cost
    Mean gain;          // what it gave
    Mean own;           // that, less what the text repeats would have given
    Mean likeliest;     // chance of the best node of its trees
    Mean levels;        // that it grew
    Mean width;         // nodes of a level behind the first
    Mean nodes;         // of its trees
  };

  // Seconds of a pass in which this text has so many rows, beside the others'.
  double pass_seconds(int rows) const { return target_(rows + pass_.rows); }
  double plain() const { return pass_seconds(1); }
  double more_rows(double rows) const;  // seconds of so many rows more
  double plain_rate() const;            // tokens per second of all texts
  double value_of_time() const;         // likewise: L
  double head_seconds(const Arm& arm, int rows) const { return arm.root_seconds + (rows - 1) * arm.row_seconds; }
  double level_seconds(int arm, int rows) const;
  double root_seconds(int arm, int read_rows) const;
  int family_of(int arm) const { return families_of_[static_cast<std::size_t>(arm)]; }
  Family& family() { return families_[static_cast<std::size_t>(family_of(plan_.arm))]; }
  double drafting_seconds(int arm, double levels, double width, double gain) const;
  double worth_among(int family) const;
  double hoped_worth(int family) const;
  double reading_cost(const Outlook& text) const;
  bool earns(double worth, const Outlook& text) const;
  bool claims_probe(double worth, const Outlook& text);
  void learn_costs(const Step& step);
  double held(int arm) const;
  int choose_arm();
  int best_head(int family) const;
  int probe_interval() const;

  std::vector<Arm> arms_;
  std::vector<int> families_of_;  // of the arms
  std::vector<Family> families_;
  std::vector<Mean> held_;  // by arm: tokens of the text that its head had
  bool grows_;
  int fixed_levels_;
  std::function<double()> clock_;
  Acceptance acceptance_;
  RowCosts target_{0.0, 0.1}, layers_{0.0, 0.02, false};
  Mean overhead_;  // of a drafted step, seconds: beside layers and heads
  Mean rate_tokens_, rate_seconds_;
  bool noisy_ = false;
  int current_ = 0;  // arm
  int planned_ = 0;  // steps
  int since_plain_ = 0, plain_interval_;
  int until_probe_ = 0, since_probe_;
  std::uint64_t prober_ = 0;  // of several texts, the one that tries; 0: none does
  int unasked_ = 0;           // steps of others, since it might have
  bool free_ = false;         // whether the planned step may be a plain one
  // Of the tree that grows:
  Plan plan_;
  Growing growing_;
  double level_begin_ = 0.0;
  Pass pass_;
  std::vector<int> rehearsal_;
};

}  // namespace frspec
