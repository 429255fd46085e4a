// The decision: what to draft with, how far, and whether at all.
#include "engine/tuner.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace frspec {
namespace {

// Tokens by which drafting may be better than its few first steps showed: their number divides it. Where no notes say
// what a tree promises, luck decides what a step shows.
constexpr double kHope = 1.0, kHopeOfLuck = 2.5;
// Among other texts: the gain that is expected of a drafter that was never tried; and its drafted steps there before
// the others follow.
constexpr double kHopeAmong = 0.25, kSureAmong = 4.0;
// Share of all time that probes of a drafter that does not pay may cost.
constexpr double kProbeShare = 0.01;
// A text is expected to go on for as long as it has lasted, and at least for so many tokens.
constexpr std::int64_t kUsualTokens = 128;
// Plain steps between two probes, where the drafter has not much to read for them.
constexpr int kLeastProbe = 3, kMostProbe = 400;
// Drafted steps between two plain ones, which tell how fast plain decoding is now: few at first, when little is known.
constexpr int kLeastPlainInterval = 24, kMostPlainInterval = 192;
// Translations are compared by turns of so many steps, until each was tried so often; then again now and then.
constexpr int kTurn = 8, kTried = 24, kAgain = 512;
// Nodes of a rehearsed tree that are verified: what their pass costs is known without it.
constexpr int kRehearsedNodes = 4;
constexpr double kHeldPrior = 16.0, kHeldGuess = 0.97;  // share of tokens that a head is expected to hold
// Accepted tokens are ordinary ones: a head that lacks some of all tokens lacks so much fewer of them.
constexpr double kOrdinary = 0.6;
// Another head must be better by so many tokens of a step.
constexpr double kHysteresis = 0.01;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void Tuner::Step::begin() {
  Step memory;
  std::swap(memory.nodes, nodes);
  std::swap(memory.parents, parents);
  std::swap(memory.held, held);
  std::swap(memory.growing.levels, growing.levels);
  memory.nodes.clear();
  memory.parents.clear();
  memory.held.clear();
  memory.growing.levels.clear();
  *this = std::move(memory);
}

void Tuner::Step::reserve(std::size_t count) {
  nodes.reserve(count);
  parents.reserve(count);
  held.reserve(count);
}

Tuner::Tuner(std::vector<Arm> arms, bool grows, int levels, std::function<double()> clock)
    : arms_(std::move(arms)),
      held_(arms_.size()),
      grows_(grows),
      fixed_levels_(levels),
      clock_(clock ? std::move(clock) : seconds_now),
      plain_interval_(kLeastPlainInterval),
      since_probe_(kMostProbe) {
  for (const Arm& arm : arms_) {
    int family = 0;
    for (std::size_t before = 0; before < families_of_.size(); ++before) {
      family = arms_[before].translation == arm.translation ? families_of_[before]
                                                            : std::max(family, families_of_[before] + 1);
      if (arms_[before].translation == arm.translation) break;
    }
    families_of_.push_back(family);
    families_.resize(std::max(families_.size(), static_cast<std::size_t>(family) + 1));
  }
  for (Mean& held : held_) held = {kHeldGuess, kHeldPrior};
}

// Those whose prompts are read by the pass will be written, too.
double Tuner::plain_rate() const {
  const double seconds = target_(pass_.texts);
  return seconds > 0.0 ? pass_.texts / seconds : 0.0;
}

double Tuner::value_of_time() const {
  const double found = rate_seconds_.value > 0.0 ? rate_tokens_.value / rate_seconds_.value : 0.0;
  return std::max(found, plain_rate());
}

double Tuner::more_rows(double rows) const {
  const int whole = std::max(1, static_cast<int>(std::ceil(rows)));
  return rows * (pass_seconds(1 + whole) - plain()) / whole;
}

double Tuner::level_seconds(int arm, int rows) const {
  return layers_(rows) + head_seconds(arms_[static_cast<std::size_t>(arm)], rows);
}

double Tuner::root_seconds(int arm, int read_rows) const {
  return layers_(std::max(1, read_rows)) + arms_[static_cast<std::size_t>(arm)].root_seconds + overhead_.value;
}

// Of a step whose drafter is told of what the one before has given.
double Tuner::drafting_seconds(int arm, double levels, double width, double gain) const {
  if (!grows_) return overhead_.value;
  return root_seconds(arm, 1 + static_cast<int>(std::lround(gain))) +
         std::max(0.0, levels - 1.0) * level_seconds(arm, std::max(1, static_cast<int>(std::lround(width))));
}

// What trees like those so far would be worth in a pass as they are now, or such of one node.
double Tuner::worth_among(int family) const {
  const Family& known = families_[static_cast<std::size_t>(family)];
  if (known.gain.count == 0) return kHopeAmong;
  const int arm = family_of(current_) == family ? current_ : best_head(family);
  const double time = value_of_time();
  const double as_before =
      known.own.value - time * (more_rows(known.nodes.value - 1.0) +
                                drafting_seconds(arm, known.levels.value, known.width.value, known.gain.value));
  if (known.likeliest.count == 0) return as_before;
  const double one = known.likeliest.value;
  return std::max(as_before, one - time * (more_rows(1.0) + drafting_seconds(arm, 1.0, 1.0, one)));
}

double Tuner::hoped_worth(int family) const {
  const Family& known = families_[static_cast<std::size_t>(family)];
  const double luck = kHopeOfLuck / (1.0 + known.seen);
  if (pass_.texts > 1) return worth_among(family) + (grows_ ? 0.0 : luck);
  return known.worth.value + (grows_ ? kHope / (1.0 + known.seen) : luck);
}

// --- Which arm ---

double Tuner::held(int arm) const { return 1.0 - kOrdinary * (1.0 - held_[static_cast<std::size_t>(arm)].value); }

// Which head: each is expected to give what the current one does, but for the tokens that only one of them has.
int Tuner::best_head(int family) const {
  const Family& known = families_[static_cast<std::size_t>(family)];
  const double time = value_of_time();
  const double gain = known.gain.count > 0 ? known.gain.value : 1.0;
  const double levels = known.levels.count > 0 ? known.levels.value : 2.0;
  const double width = known.width.count > 0 ? known.width.value : 1.0;
  const double reference = family_of(current_) == family ? held(current_) : 1.0;
  const auto worth = [&](int arm) {
    const Arm& head = arms_[static_cast<std::size_t>(arm)];
    const double behind = std::max(0.0, levels - 1.0) * (head.root_seconds + (width - 1.0) * head.row_seconds);
    return gain * held(arm) / reference - time * (head.root_seconds + behind);
  };
  int best = -1;
  double most = 0.0;
  for (int arm = 0; arm < static_cast<int>(arms_.size()); ++arm) {
    if (family_of(arm) != family) continue;
    const double found = worth(arm) + (arm == current_ ? kHysteresis : 0.0);
    if (best < 0 || found > most) {
      most = found;
      best = arm;
    }
  }
  return best;
}

int Tuner::choose_arm() {
  int family = 0;
  const auto families = static_cast<int>(families_.size());
  if (families > 1) {
    const auto tried = [&](int f) { return families_[static_cast<std::size_t>(f)].gain.count; };
    const int least = tried(0) <= tried(1) ? 0 : 1;
    if (tried(least) < kTried && hoped_worth(least) > 0.0 && pass_.texts == 1) {
      family = planned_ / kTurn % families;
      if (tried(family) >= kTried) family = least;
    } else {
      family = hoped_worth(1) > hoped_worth(0) ? 1 : 0;
      if (planned_ >= kAgain && planned_ % kAgain < kTurn) family = 1 - family;
    }
  }
  return current_ = best_head(family);
}

// --- Whether ---

// Plain steps until the next probe: so many that what it costs is a small share of them. The drafter has to be told of
// all of them, too; among others, of those of the text that tries.
int Tuner::probe_interval() const {
  const int family = family_of(current_);
  const double worth = pass_.texts > 1 ? worth_among(family) : families_[static_cast<std::size_t>(family)].worth.value;
  const double time = value_of_time();
  for (int steps = kLeastProbe; steps < kMostProbe; steps += 1 + steps / 8) {
    const double lost = -worth + time * (layers_(std::max(1, steps / pass_.texts)) - layers_(1));
    if (lost < kProbeShare * steps) return steps;
  }
  return kMostProbe;
}

// Tokens that all might write while the drafter reads what it has not of this text.
double Tuner::reading_cost(const Outlook& text) const {
  const int rows = text.unread ? text.unread() : 0;
  return rows <= kUsualRows ? 0.0 : value_of_time() * (layers_(rows) - layers_(kUsualRows));
}

// Whether the text is expected to be long enough for that.
bool Tuner::earns(double worth, const Outlook& text) const {
  const Family& known = families_[static_cast<std::size_t>(family_of(plan_.arm))];
  const auto tokens = static_cast<double>(std::min(text.left, std::max(kUsualTokens, text.written)));
  return worth * tokens / (1.0 + known.gain.value) >= reading_cost(text);
}

// Whether this step of the text tries what nobody is sure of, or what does not pay.
bool Tuner::claims_probe(double worth, const Outlook& text) {
  ++since_probe_;
  if (until_probe_ > 0) {
    --until_probe_;
    return false;
  }
  const double reading = reading_cost(text);
  // Of several texts one is read for it, as long as there is something of it to come.
  const bool is_prober = text.id == prober_;
  if (is_prober) unasked_ = 0;
  const bool is_first = is_prober || prober_ == 0 || pass_.texts == 1;
  if (reading > 0.0 && !is_first && ++unasked_ <= 2 * pass_.texts) return false;
  // Where a text grows faster than reading it is earned, it is read now and then all the same: it may have changed.
  const bool is_cheap = reading <= kProbeShare * since_probe_ || since_probe_ >= 2 * kMostProbe;
  const bool may = worth > 0.0 ? earns(worth, text) : is_cheap;
  if (!may) return false;
  prober_ = text.id;
  unasked_ = 0;
  return true;
}

Tuner::Plan Tuner::next(bool may_pause, const Outlook& text) {
  free_ = may_pause;
  plan_ = {.planned = true, .forced = !may_pause};
  if (arms_.empty()) return plan_;
  plan_.arm = choose_arm();
  ++planned_;
  if (!may_pause) {
    plan_.drafts = true;
    return plan_;
  }
  const double worth = hoped_worth(family_of(plan_.arm));
  const bool is_sure = worth > 0.0 && (pass_.texts == 1 || family().seen >= kSureAmong);
  if (is_sure ? !earns(worth, text) : !claims_probe(worth, text)) return plan_;
  if (const int rows = text.unread ? text.unread() : 0; rows > std::max(text.piece, kUsualRows)) {
    plan_.reads = text.piece;
    return plan_;
  }
  if (is_sure) {
    // A plain step now and then tells what plain decoding would give.
    plan_.drafts = ++since_plain_ <= plain_interval_;
    if (!plan_.drafts) plain_interval_ = std::min(2 * plain_interval_, kMostPlainInterval);
  } else {
    // A probe verifies a draft, however unlikely: else it would not be known whether that is still true. Other texts of
    // the same pass need not tell the same.
    plan_.drafts = plan_.forced = true;
    until_probe_ = probe_interval();
    since_probe_ = 0;
  }
  return plan_;
}

bool Tuner::is_steady() const {
  if (grows_ || !plan_.drafts || families_.size() != 1 || plain() == 0.0) return false;
  return !free_ || (families_[0].worth.value > 0.0 && since_plain_ < plain_interval_);
}

Tuner::Plan Tuner::again() {
  if (free_) ++since_plain_;
  return plan_;
}

// --- How far ---

void Tuner::begin_growth(const Plan& plan) {
  plan_ = plan;
  const std::string& translation =
      arms_.empty() ? std::string() : arms_[static_cast<std::size_t>(plan.arm)].translation;
  acceptance_.use(translation.empty() ? 0 : family_of(plan.arm) % Acceptance::kTranslations, noisy_);
  growing_.worth_of_repeated = growing_.likeliest = 0.0;
  growing_.levels.clear();
  if (plan.drafts) growing_.levels.push_back({1, 0.0});
  level_begin_ = clock_();
}

const Tuner::Growing& Tuner::end_growth() {
  std::vector<Level>& levels = growing_.levels;
  if (!levels.empty() && levels.back().seconds == 0.0) levels.back().seconds = clock_() - level_begin_;
  return growing_;
}

bool Tuner::drafts_beside(std::span<const float> repeated) {
  if (!plan_.drafts) return false;
  const double time = value_of_time();
  const int n = size(repeated);
  double found = 0.0;
  for (int i = 0; i < n; ++i) found += static_cast<double>(repeated[static_cast<std::size_t>(i)]);
  growing_.worth_of_repeated = std::max(0.0, found - time * (pass_seconds(1 + n) - plain()));
  bool asks = true;
  if (!repeated.empty() && !plan_.forced && rehearsal_.empty()) {
    // What the drafter adds is worth something where the repetition fails.
    const Family& known = family();
    if (known.gain.count > 0) {
      const double cost = known.gain.value - known.worth.value;
      asks = known.gain.value * (1.0 - static_cast<double>(repeated.front())) > cost;
    }
  }
  if (!asks) {
    plan_.drafts = false;
    growing_.levels.clear();
  } else {
    level_begin_ = clock_();
  }
  return asks;
}

int Tuner::size(std::span<const float> chances) const {
  if (!rehearsal_.empty()) return std::min(kRehearsedNodes, static_cast<int>(chances.size()));
  const double time = value_of_time();
  double gain = 0.0, most = 0.0;
  int best = plan_.forced && !chances.empty() ? 1 : 0;
  if (best == 1) most = static_cast<double>(chances[0]) - time * pass_seconds(2);
  if (best == 0) most = -time * plain();
  for (int n = 1; n <= static_cast<int>(chances.size()); ++n) {
    gain += static_cast<double>(chances[static_cast<std::size_t>(n) - 1]);
    const double worth = gain - time * pass_seconds(1 + n);
    if (worth > most) {
      most = worth;
      best = n;
    }
  }
  return best;
}

int Tuner::width(std::span<const NodeNote> frontier, std::span<const float> chances) {
  std::vector<Level>& levels = growing_.levels;
  if (!levels.empty()) levels.back().seconds = clock_() - level_begin_;
  const auto level = levels.size();
  if (level == 1 && !frontier.empty()) growing_.likeliest = static_cast<double>(frontier.front().chance);
  int best = 0;
  if (!rehearsal_.empty()) {
    best = level < rehearsal_.size() ? std::min(rehearsal_[level], static_cast<int>(frontier.size())) : 0;
  } else if (plan_.forced || static_cast<double>(level) <= family().seen) {  // the first steps only feel their way
    const double time = value_of_time();
    // What a row more costs, beside those that are worth it so far.
    const int rows = 1 + size(chances);
    const double row = time * (pass_seconds(rows + 2) - pass_seconds(rows)) / 2;
    double gain = 0.0, most = 0.0;
    for (int b = 1; b <= static_cast<int>(frontier.size()); ++b) {
      const NodeNote& node = frontier[static_cast<std::size_t>(b) - 1];
      gain += std::max(0.0, static_cast<double>(node.chance) * acceptance_.continues(node) - row);
      const double worth = gain - time * level_seconds(plan_.arm, b);
      if (worth > most) {
        most = worth;
        best = b;
      }
    }
  }
  if (best > 0) levels.push_back({best, 0.0});
  level_begin_ = clock_();
  return best;
}

// --- For people ---

Tuner::Choice Tuner::choice() const {
  Choice found;
  found.plain_tokens_per_second = plain_rate();
  found.arm = current_;
  if (rate_seconds_.value > 0.0) found.tokens_per_second = rate_tokens_.value / rate_seconds_.value;
  if (arms_.empty()) {
    found.drafts = found.tokens_per_second > found.plain_tokens_per_second;
    return found;
  }
  const Family& known = families_[static_cast<std::size_t>(family_of(current_))];
  found.drafts = known.worth.count > 0 && hoped_worth(family_of(current_)) > 0.0;
  found.nodes = known.nodes.value;
  found.levels = known.levels.value;
  found.gain = known.gain.value;
  found.cost = known.gain.value - known.worth.value;
  return found;
}

}  // namespace frspec
