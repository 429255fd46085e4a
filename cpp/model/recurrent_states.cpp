#include "model/recurrent_states.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace frspec {
namespace {

constexpr int kNew = -1;  // as Backend::copy_state has it

Buffer floats(Backend& backend, std::int64_t number, std::int64_t of) {
  return backend.allocate(sizeof(float) * static_cast<std::size_t>(number * of));
}

bool begins_with(std::span<const std::int32_t> text, std::span<const std::int32_t> tokens) {
  return tokens.size() <= text.size() && std::ranges::equal(tokens, text.first(tokens.size()));
}

}  // namespace

RecurrentStates::RecurrentStates(Backend& backend, const ModelConfig& config, int places, int rows, int copies)
    : backend_(backend),
      own_(static_cast<std::size_t>(places)),
      count_(backend.allocate(sizeof(std::int32_t))),
      room_(static_cast<std::size_t>(copies)) {
  for (int i = 0; i < config.recurrent_layers(); ++i) {
    states_.push_back(floats(backend, places + copies, config.delta.state_floats()));
    layers_.push_back({.shape = config.delta, .states = states_.back().as<float>()});
  }
  make_room(rows);
}

// All of it or none: where memory is short, the next pass of trees asks for as much as there was again.
void RecurrentStates::make_room(int rows) {
  if (rows == 0 || (rows <= rows_ && !kept_.empty())) return;
  const int wanted = std::max(rows, rows_);
  kept_.clear();
  std::vector<Buffer> kept;
  const auto keep = [&](std::int64_t of) {
    kept.push_back(floats(backend_, wanted, of));
    return kept.back().as<float>();
  };
  for (DeltaLayer& layer : layers_) {
    layer.inputs = keep(layer.shape.channels());
    layer.keys = keep(layer.shape.key_dim());
    layer.deltas = keep(layer.shape.value_dim());
    layer.decays = keep(layer.shape.value_heads);
  }
  kept_ = std::move(kept);
  rows_ = wanted;
}

void RecurrentStates::clear(int place) {
  if (!own(place).is_clear) backend_.copy_state(layers_, kNew, place);
  own(place) = {};
}

void RecurrentStates::begin_pass(const Rows& rows) {
  for (std::size_t place = 0; place < own_.size(); ++place) settle(static_cast<int>(place));
  int trees = 0;
  for (std::size_t g = 0; g < rows.group_count(); ++g) {
    const Rows group = rows.of_group(g);
    const bool is_chain = group.depth == nullptr;
    Own& its = own(group.sequence.state);
    its = {.first = is_chain ? kChain : trees, .unsettled = {}, .without = 0, .is_clear = its.is_clear && !is_chain};
    trees += is_chain ? 0 : group.count;
  }
  make_room(trees);
}

void RecurrentStates::commit(int place, const VerdictView& verdict) {
  if (own(place).first != kChain) own(place).unsettled = verdict;
}

std::int32_t RecurrentStates::settle(int place, std::int32_t without) {
  Own& its = own(place);
  if (!its.unsettled) return its.without;
  VerdictView verdict = *std::exchange(its.unsettled, std::nullopt);
  if (without > 0) {
    std::int32_t count = 0;
    backend_.download(&count, verdict.count, sizeof count);
    count -= without;
    backend_.upload(count_.as<void>(), &count, sizeof count);
    verdict.count = count_.as<std::int32_t>();
  }
  its.without = without;
  its.is_clear = false;
  backend_.commit_states(layers_, {.state = place}, verdict, its.first);
  return without;
}

RecurrentStates::Copy* RecurrentStates::find_copy(std::string_view salt, std::span<const std::int32_t> tokens) {
  const auto found = std::ranges::find_if(
      copies_, [&](const Copy& copy) { return copy.salt == salt && std::ranges::equal(copy.tokens, tokens); });
  return found != copies_.end() ? &*found : nullptr;
}

void RecurrentStates::keep(int place, std::string_view salt, std::span<const std::int32_t> tokens) {
  if (room_ == 0 || tokens.empty()) return;
  if (Copy* known = find_copy(salt, tokens); known != nullptr) {
    known->used = ++clock_;
    return;
  }
  if (copies_.size() < room_) copies_.push_back({{}, {}, static_cast<int>(own_.size() + copies_.size()), 0});
  Copy& copy = *std::ranges::min_element(copies_, {}, &Copy::used);
  copy.salt = salt;
  copy.tokens.assign(tokens.begin(), tokens.end());
  copy.used = ++clock_;
  backend_.copy_state(layers_, place, copy.state);
}

std::int32_t RecurrentStates::find(std::string_view salt, std::span<const std::int32_t> text, std::int32_t most) const {
  std::size_t longest = 0;
  for (const Copy& copy : copies_) {
    const std::size_t length = copy.tokens.size();
    if (copy.salt != salt || length <= longest || length > static_cast<std::size_t>(std::max(most, 0))) continue;
    if (begins_with(text, copy.tokens)) longest = length;
  }
  return static_cast<std::int32_t>(longest);
}

void RecurrentStates::resume(int place, std::string_view salt, std::span<const std::int32_t> tokens) {
  Copy* copy = find_copy(salt, tokens);
  if (copy == nullptr) throw Error(concat("recurrent states: found no copy behind ", tokens.size(), " tokens"));
  copy->used = ++clock_;
  own(place) = {.first = kChain, .unsettled = {}, .without = 0, .is_clear = false};
  backend_.copy_state(layers_, copy->state, place);
}

}  // namespace frspec
