// Recurrent states.
#include "model/recurrent_states.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace frspec {
namespace {

constexpr int kOwn = 0, kNew = -1;  // as Backend::copy_state has them

Buffer floats(Backend& backend, std::int64_t number, std::int64_t of) {
  return backend.allocate(sizeof(float) * static_cast<std::size_t>(number * of));
}

bool begins_with(std::span<const std::int32_t> text, std::span<const std::int32_t> tokens) {
  return tokens.size() <= text.size() && std::ranges::equal(tokens, text.first(tokens.size()));
}

}  // namespace

RecurrentStates::RecurrentStates(Backend& backend, const ModelConfig& config, int rows, int copies)
    : backend_(backend), count_(backend.allocate(sizeof(std::int32_t))), room_(static_cast<std::size_t>(copies)) {
  for (int i = 0; i < config.recurrent_layers(); ++i) {
    states_.push_back(floats(backend, 1 + copies, config.delta.state_floats()));
    layers_.push_back({.shape = config.delta, .states = states_.back().as<float>()});
  }
  make_room(rows);
}

void RecurrentStates::make_room(int rows) {
  if (rows <= rows_) return;
  rows_ = rows;
  kept_.clear();
  const auto keep = [&](std::int64_t of) {
    kept_.push_back(floats(backend_, rows, of));
    return kept_.back().as<float>();
  };
  for (DeltaLayer& layer : layers_) {
    layer.inputs = keep(layer.shape.channels());
    layer.keys = keep(layer.shape.key_dim());
    layer.deltas = keep(layer.shape.value_dim());
    layer.decays = keep(layer.shape.value_heads);
  }
}

void RecurrentStates::clear() {
  unsettled_.reset();
  if (!is_clear_) backend_.copy_state(layers_, kNew, kOwn);
  is_clear_ = true;
}

void RecurrentStates::settle(const SequenceView& sequence, std::int32_t without) {
  if (!unsettled_) return;
  VerdictView verdict = *std::exchange(unsettled_, std::nullopt);
  if (without > 0) {
    std::int32_t count = 0;
    backend_.download(&count, verdict.count, sizeof count);
    count -= without;
    backend_.upload(count_.as<void>(), &count, sizeof count);
    verdict.count = count_.as<std::int32_t>();
  }
  is_clear_ = false;
  backend_.commit_states(layers_, sequence, verdict, 0);
}

RecurrentStates::Copy* RecurrentStates::find_copy(std::string_view salt, std::span<const std::int32_t> tokens) {
  const auto found = std::ranges::find_if(
      copies_, [&](const Copy& copy) { return copy.salt == salt && std::ranges::equal(copy.tokens, tokens); });
  return found != copies_.end() ? &*found : nullptr;
}

void RecurrentStates::keep(std::string_view salt, std::span<const std::int32_t> tokens) {
  if (room_ == 0 || tokens.empty()) return;
  if (Copy* known = find_copy(salt, tokens); known != nullptr) {
    known->used = ++clock_;
    return;
  }
  if (copies_.size() < room_) copies_.push_back({{}, {}, 1 + static_cast<int>(copies_.size()), 0});
  Copy& copy = *std::ranges::min_element(copies_, {}, &Copy::used);
  copy.salt = salt;
  copy.tokens.assign(tokens.begin(), tokens.end());
  copy.used = ++clock_;
  backend_.copy_state(layers_, kOwn, copy.state);
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

void RecurrentStates::resume(std::string_view salt, std::span<const std::int32_t> tokens) {
  Copy* copy = find_copy(salt, tokens);
  if (copy == nullptr) throw Error(concat("recurrent states: found no copy behind ", tokens.size(), " tokens"));
  copy->used = ++clock_;
  unsettled_.reset();
  is_clear_ = false;
  backend_.copy_state(layers_, copy->state, kOwn);
}

}  // namespace frspec
