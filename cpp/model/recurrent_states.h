// The recurrent states of sequences in a model's delta layers, and copies of them: unlike keys and values a state
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
  // Of the sequences in `places` places, for passes with up to `rows` rows of trees, and with room for `copies` copies.
  RecurrentStates(Backend& backend, const ModelConfig& config, int places, int rows, int copies);

  const DeltaLayer& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }
  // Of trees that passes have room for.
  int rows() const { return rows_; }

  // The sequence of a place is a new one.
  void clear(int place);
  // A pass will run: what the last one left unsettled is settled. (Larger trees, a laboratory's, make their room.)
  void begin_pass(const Rows& rows);
  // The sequence goes on along the accepted nodes of its tree in the last pass, but only when settle() is called,
  // before the next one: a text that ends is perhaps not wanted up to the last of them. With a chain it went on
  // already.
  void commit(int place, const VerdictView& verdict);
  // It goes on along all nodes but the last `without`. Returns how many of its committed rows the state is without now.
  std::int32_t settle(int place, std::int32_t without = 0);

  // The state of a place, behind `tokens`, is kept for others of the same salt that begin with these. The copy that was
  // used least lately makes room for it.
  void keep(int place, std::string_view salt, std::span<const std::int32_t> tokens);
  // How many tokens of a text, at most `most`, the longest copy stands behind; 0: there is none.
  std::int32_t find(std::string_view salt, std::span<const std::int32_t> text, std::int32_t most) const;
  // The sequence of a place goes on from the copy behind `tokens`, which find() found.
  void resume(int place, std::string_view salt, std::span<const std::int32_t> tokens);

 private:
  static constexpr int kChain = -1;
  // What is known of the state of a place.
  struct Own {
    int first = kChain;                    // of its rows among those of trees in the last pass
    std::optional<VerdictView> unsettled;  // about that tree
    std::int32_t without = 0;              // rows that were committed, but not settled
    bool is_clear = true;
  };
  struct Copy {
    std::string salt;
    std::vector<std::int32_t> tokens;
    int state;
    std::uint64_t used;
  };
  void make_room(int rows);
  Own& own(int place) { return own_[static_cast<std::size_t>(place)]; }
  Copy* find_copy(std::string_view salt, std::span<const std::int32_t> tokens);

  Backend& backend_;
  std::vector<Buffer> states_;
  std::vector<Buffer> kept_;  // of the rows of trees
  std::vector<DeltaLayer> layers_;
  int rows_ = 0;
  std::vector<Own> own_;  // (places)
  Buffer count_;          // (1) of nodes that are settled
  std::size_t room_;
  std::vector<Copy> copies_;
  std::uint64_t clock_ = 0;
};

}  // namespace frspec
