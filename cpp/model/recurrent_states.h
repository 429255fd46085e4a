// The recurrent states of a sequence in a model's delta layers, and copies of them: unlike keys and values a state
// cannot be cut, so a text that begins like an earlier one goes on from where a copy was kept.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"

namespace frspec {

class RecurrentStates {
 public:
  // For trees of up to `rows` rows, and with room for `copies` copies.
  RecurrentStates(Backend& backend, const ModelConfig& config, int rows, int copies);

  // From now on trees may have so many rows.
  void make_room(int rows);

  const DeltaLayer& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }

  // The sequence is a new one.
  void clear();
  // A chain of rows goes through the layers: the sequence is no longer new.
  void will_advance() { is_clear_ = false; }
  // It goes on along the accepted nodes of the tree of the last pass, but only when settle() is called, before the next
  // one: a text that ends is perhaps not wanted up to the last of them.
  void commit(const VerdictView& verdict) { unsettled_ = verdict; }
  // All nodes but the last `without`.
  void settle(const SequenceView& sequence, std::int32_t without = 0);

  // The state behind `tokens`, with which the sequence begins, is kept for others of the same salt. The copy that was
  // used least lately makes room for it.
  void keep(std::string_view salt, std::span<const std::int32_t> tokens);
  // How many tokens of a text, at most `most`, the longest copy stands behind; 0: there is none.
  std::int32_t find(std::string_view salt, std::span<const std::int32_t> text, std::int32_t most) const;
  // The sequence goes on from the copy behind `tokens`, which find() found.
  void resume(std::string_view salt, std::span<const std::int32_t> tokens);

 private:
  struct Copy {
    std::string salt;
    std::vector<std::int32_t> tokens;
    int state;
    std::uint64_t used;
  };
  Copy* find_copy(std::string_view salt, std::span<const std::int32_t> tokens);

  Backend& backend_;
  std::vector<Buffer> states_;
  std::vector<Buffer> kept_;  // of the rows of trees
  std::vector<DeltaLayer> layers_;
  int rows_ = 0;  // that there is room for
  std::optional<VerdictView> unsettled_;
  Buffer count_;  // (1) of nodes that are settled
  std::size_t room_;
  std::vector<Copy> copies_;
  std::uint64_t clock_ = 0;
  bool is_clear_ = true;
};

}  // namespace frspec
