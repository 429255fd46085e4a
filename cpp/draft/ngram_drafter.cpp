#include "draft/ngram_drafter.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace frspec {
namespace {

constexpr std::size_t kPlaces = 4;  // of an n-gram that are remembered: the latest ones
constexpr std::size_t kPaths = 4;   // that a Growth is asked about
constexpr std::size_t kMostFound = 64;
constexpr float kLeastChance = 0.02f;

}  // namespace

void NgramIndex::begin(std::size_t tokens) {
  text_.clear();
  text_.reserve(tokens);
  indexed_ = 0;
  ends_.resize(static_cast<std::size_t>(longest_ - shortest_) + 1);
  found_.reserve(kMostFound);
  for (Ends& ends : ends_) {
    // Half of it stays free, so that a place is found soon.
    ends.latest.assign(std::bit_ceil(2 * tokens), 0);
    ends.before.resize(tokens + 1);
  }
}

void NgramIndex::push(std::span<const TokenId> tokens) { text_.insert(text_.end(), tokens.begin(), tokens.end()); }

std::uint32_t& NgramIndex::latest(std::size_t end, int n) {
  const auto tokens = [&](std::size_t behind) {
    return std::span(text_).subspan(behind - static_cast<std::size_t>(n), static_cast<std::size_t>(n));
  };
  auto value = static_cast<std::uint64_t>(n);
  for (const TokenId token : tokens(end)) {
    value = (value ^ static_cast<std::uint32_t>(token)) * 0x9E3779B97F4A7C15u;
    value ^= value >> 29;
  }
  std::vector<std::uint32_t>& places = ends_of(n).latest;
  for (std::size_t at = value;; ++at) {
    std::uint32_t& place = places[at & (places.size() - 1)];
    if (place == 0 || std::ranges::equal(tokens(place), tokens(end))) return place;
  }
}

// The n-grams that something follows: all that end before the text does.
void NgramIndex::index() {
  for (; indexed_ + 1 < text_.size(); ++indexed_) {
    const std::size_t end = indexed_ + 1;
    for (int n = shortest_; n <= longest_ && static_cast<std::size_t>(n) <= end; ++n) {
      std::uint32_t& place = latest(end, n);
      ends_of(n).before[end] = place;
      place = static_cast<std::uint32_t>(end);
    }
  }
}

const std::vector<NgramIndex::Continuation>& NgramIndex::continuations(int length, std::size_t most) {
  index();
  found_.clear();
  for (int n = longest_; n >= shortest_; --n) {
    if (static_cast<std::size_t>(n) > text_.size()) continue;
    std::uint32_t end = latest(text_.size(), n);
    for (std::size_t places = 0; end != 0 && places < kPlaces && found_.size() < most; ++places) {
      const std::size_t size = std::min(static_cast<std::size_t>(length), text_.size() - end);
      found_.push_back({n, std::span(text_).subspan(end, size)});
      end = ends_of(n).before[end];
    }
  }
  return found_;
}

NgramDrafter::NgramDrafter(Backend& backend, std::unique_ptr<Drafter> inner, int longest, int nodes, int depth,
                           int inner_size, int inner_depth, int places)
    : backend_(backend),
      inner_(std::move(inner)),
      texts_(static_cast<std::size_t>(places), Text{NgramIndex(longest)}),
      text_(texts_.data()),
      nodes_(nodes),
      depth_(depth),
      room_(static_cast<std::size_t>(inner_size + nodes)),
      tree_(DraftTree::with_room(backend, inner_size + nodes, std::max(depth, inner_depth))) {
  host_.reserve(2 * room_);
  chances_.reserve(room_);
  for (auto* scratch : {&tokens_, &parents_, &places_}) scratch->reserve(room_);
}

void NgramDrafter::use_place(int place) {
  text_ = &texts_[static_cast<std::size_t>(place)];
  if (inner_) inner_->use_place(place);
}

void NgramDrafter::begin(const TextRules& rules) {
  const std::size_t most =
      rules.most > 0 ? rules.most : static_cast<std::size_t>(rules.sequence.page_count) * kPageSlots;
  text_->index.begin(most + rules.prediction.size());
  text_->index.push(rules.prediction);
  text_->is_chain = rules.rejection != nullptr;
  if (inner_) inner_->begin(rules);
}

void NgramDrafter::extend(const Extension& extension) {
  text_->index.push(extension.tokens);
  if (inner_) inner_->extend(extension);
}

const DraftTree& NgramDrafter::propose(Growth* growth) {
  if (growth != nullptr) return propose_best(*growth);
  const auto& paths = text_->index.continuations(depth_, text_->is_chain ? 1 : static_cast<std::size_t>(nodes_));
  host_.begin(text_->index.text().back());
  if (inner_) {
    const DraftTree& inner = inner_->propose(nullptr);
    if (paths.empty()) return inner;
    read_nodes(backend_, inner.view(), tokens_, parents_);
    host_.assign(tokens_, parents_);
  }
  const std::size_t most = host_.tokens().size() + static_cast<std::size_t>(nodes_);
  for (const auto& path : paths) host_.add_path(path.tokens, most, depth_);
  tree_.assign(backend_, host_.tokens(), host_.parents());
  return tree_;
}

const DraftTree& NgramDrafter::propose_best(Growth& growth) {
  host_.begin(text_->index.text().back());
  for (const auto& path : text_->index.continuations(depth_, kPaths)) {
    std::int32_t node = 0;
    for (std::size_t i = 0; i < path.tokens.size() && host_.tokens().size() < room_; ++i) {
      const NodeNote note = growth.judge_repeated(host_.note(node), path.matched, static_cast<int>(i) + 1);
      if (note.chance < kLeastChance) break;
      node = host_.add(node, path.tokens[i], note);
    }
  }
  chances_.clear();
  for (const NodeNote& note : std::span(host_.notes()).subspan(1)) chances_.push_back(note.chance);
  std::sort(chances_.begin(), chances_.end(), std::greater<>());
  if (inner_ && growth.drafts_beside(chances_)) {
    const DraftTree& inner = inner_->propose(&growth);
    if (host_.tokens().size() == 1) return inner;
    read_nodes(backend_, inner.view(), tokens_, parents_);
    places_.assign(tokens_.size(), 0);
    for (std::size_t i = 1; i < tokens_.size(); ++i) {
      const std::int32_t parent = places_[static_cast<std::size_t>(parents_[i])];
      places_[i] = host_.add(parent, tokens_[i], inner.notes()[i]);
    }
  }
  host_.prune(growth, room_);
  tree_.assign(backend_, host_.tokens(), host_.parents(), host_.notes());
  return tree_;
}

}  // namespace frspec
