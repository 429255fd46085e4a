// Packing and its inverse, from one description of where each byte goes.
#include "cpu/packing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "base/error.h"
#include "tensor/coded.h"
#include "tensor/quant.h"
#include "tensor/weight_types.h"

namespace frspec::cpu {
namespace {

// One row of a panel being written (kPacking) or read back. Row and panel pointers are const on the side that is read.
template <bool kPacking>
class Lane {
 public:
  using PanelByte = std::conditional_t<kPacking, std::byte, const std::byte>;
  using RowByte = std::conditional_t<kPacking, const std::byte, std::byte>;
  template <class Block>
  using Of = std::conditional_t<kPacking, const Block, Block>;

  explicit Lane(int lane) : lane_(lane) {}

  // `bytes` of the row, dword by dword, one line apart; a last dword may be incomplete.
  void dwords(PanelByte* panel, void const* row, std::int64_t bytes) const {
    auto* at = panel + 4 * lane_;
    auto* from = static_cast<RowByte*>(const_cast<void*>(row));
    for (std::int64_t i = 0; i < bytes / 4; ++i) copy(at + i * kLine, from + 4 * i, 4);
    if (bytes % 4 != 0) copy(at + bytes / 4 * kLine, from + bytes / 4 * 4, static_cast<std::size_t>(bytes % 4));
  }

  // Value `index` of a header whose values are `size` bytes wide, runs of 16.
  void value(PanelByte* runs, int index, const void* row, std::size_t size) const {
    copy(runs + (index * kPanel + lane_) * static_cast<std::int64_t>(size),
         static_cast<RowByte*>(const_cast<void*>(row)), size);
  }

  void move(PanelByte* group, const GroupLayout& layout, Of<BlockQ8_0>* blocks, int count) const {
    for (int b = 0; b < count; ++b) {
      value(group, b, &blocks[b].scale, 2);
      auto* at = group + layout.quants + b * kBlockSteps * kLine + 4 * lane_;
      for (int i = 0; i < kBlockSteps; ++i) {
        std::uint32_t word;
        if constexpr (kPacking) {
          std::memcpy(&word, blocks[b].quants + 4 * i, 4);
          word ^= 0x80808080u;
          std::memcpy(at + i * kLine, &word, 4);
        } else {
          std::memcpy(&word, at + i * kLine, 4);
          word ^= 0x80808080u;
          std::memcpy(blocks[b].quants + 4 * i, &word, 4);
        }
      }
    }
  }

  // Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL
  template <class Block>
  void move(PanelByte* group, const GroupLayout& layout, Block* blocks, int count) const {
    for (int b = 0; b < count; ++b) {
      value(group, b, &blocks[b].scale, 2);
      if constexpr (requires { blocks->minimum; }) value(group, count + b, &blocks[b].minimum, 2);
      dwords(group + layout.quants + b * 4 * kLine, blocks[b].quants, 16);
      if constexpr (requires { blocks->high; }) fifth_bits(group + layout.high + b * kLine + 4 * lane_, blocks[b].high);
    }
  }

  void move(PanelByte* group, const GroupLayout& layout, Of<BlockMXFP4>* blocks, int count) const {
    for (int b = 0; b < count; ++b) {
      value(group, b, &blocks[b].exponent, 1);
      dwords(group + layout.quants + b * 4 * kLine, blocks[b].quants, sizeof blocks[b].quants);
    }
  }

  // What follows has one block in a group.
  void move(PanelByte* group, const GroupLayout& layout, Of<BlockQ4_K>* block, int) const {
    q4_q5_k(group, layout, *block);
  }
  void move(PanelByte* group, const GroupLayout& layout, Of<BlockQ5_K>* block, int) const {
    q4_q5_k(group, layout, *block);
    dwords(group + layout.high, block->high, sizeof block->high);
  }

  void move(PanelByte* group, const GroupLayout& layout, Of<BlockQ6_K>* block, int) const {
    value(group, 0, &block->scale, 2);
    bytes(group + 2 * kPanel, block->scales, 16);
    dwords(group + layout.quants, block->low, sizeof block->low);
    dwords(group + layout.high, block->high, sizeof block->high);
  }

  void move(PanelByte* group, const GroupLayout& layout, Of<BlockQ2_K>* block, int) const {
    value(group, 0, &block->scale, 2);
    value(group, 1, &block->minimum, 2);
    bytes(group + 4 * kPanel, block->scales, 16);
    dwords(group + layout.quants, block->quants, sizeof block->quants);
  }

  void move(PanelByte* group, const GroupLayout& layout, Of<BlockQ3_K>* block, int) const {
    value(group, 0, &block->scale, 2);
    std::array<std::int8_t, 16> scales;
    if constexpr (kPacking) {
      for (int b = 0; b < 16; ++b) {
        scales[static_cast<std::size_t>(b)] = static_cast<std::int8_t>(q3_scale(block->packed, b));
      }
    }
    bytes(group + 2 * kPanel, scales.data(), 16);
    if constexpr (!kPacking) {
      std::fill_n(block->packed, sizeof block->packed, std::uint8_t{0});
      for (int b = 0; b < 16; ++b) {
        const int bits = scales[static_cast<std::size_t>(b)] + 32;
        block->packed[b % 8] |= static_cast<std::uint8_t>((bits & 15) << (4 * (b / 8)));
        block->packed[8 + b % 4] |= static_cast<std::uint8_t>((bits >> 4) << (2 * (b / 4)));
      }
    }
    dwords(group + layout.quants, block->quants, sizeof block->quants);
    dwords(group + layout.high, block->high, sizeof block->high);
  }

  void move(PanelByte* group, const GroupLayout& layout, Of<BlockIQ4_XS>* block, int) const {
    value(group, 0, &block->scale, 2);
    std::array<std::int8_t, 8> scales;
    if constexpr (kPacking) {
      for (int b = 0; b < 8; ++b) {
        scales[static_cast<std::size_t>(b)] = static_cast<std::int8_t>(iq4_scale(*block, b));
      }
    }
    bytes(group + 2 * kPanel, scales.data(), 8);
    if constexpr (!kPacking) {
      block->scales_high = 0;
      std::fill_n(block->scales_low, sizeof block->scales_low, std::uint8_t{0});
      for (int b = 0; b < 8; ++b) {
        const int bits = scales[static_cast<std::size_t>(b)] + 32;
        block->scales_low[b / 2] |= static_cast<std::uint8_t>((bits & 15) << (4 * (b % 2)));
        block->scales_high |= static_cast<std::uint16_t>((bits >> 4) << (2 * b));
      }
    }
    dwords(group + layout.quants, block->quants, sizeof block->quants);
  }

  void move(PanelByte* group, const GroupLayout& layout, Of<BlockCoded>* block, int) const {
    value(group, 0, &block->scale, 4);
    bytes(group + 4 * kPanel, block->scales, 16);
    dwords(group + layout.quants, block->quants, sizeof block->quants);
    copy(group + layout.high, reinterpret_cast<RowByte*>(block->values), sizeof block->values);
  }

 private:
  // `count` bytes of the row, the values 0, 1, ... of the runs.
  template <class Byte>
  void bytes(PanelByte* runs, Byte* row, int count) const {
    for (int i = 0; i < count; ++i) value(runs, i, row + i, 1);
  }

  template <class Block>
  void q4_q5_k(PanelByte* group, const GroupLayout& layout, Block& block) const {
    value(group, 0, &block.scale, 2);
    value(group, 1, &block.minimum, 2);
    auto* runs = group + 4 * kPanel;
    if constexpr (kPacking) {
      for (int b = 0; b < 8; ++b) {
        runs[b * kPanel + lane_] = std::byte{packed_scale(block.packed, b)};
        runs[(8 + b) * kPanel + lane_] = std::byte{packed_minimum(block.packed, b)};
      }
    } else {
      std::array<unsigned, 16> v;  // scales, minima
      for (int i = 0; i < 16; ++i) v[static_cast<std::size_t>(i)] = std::to_integer<unsigned>(runs[i * kPanel + lane_]);
      for (std::size_t b = 0; b < 4; ++b) {
        block.packed[b] = static_cast<std::uint8_t>(v[b] | v[b + 4] >> 4 << 6);
        block.packed[b + 4] = static_cast<std::uint8_t>(v[b + 8] | v[b + 12] >> 4 << 6);
        block.packed[b + 8] = static_cast<std::uint8_t>((v[b + 4] & 0xF) | (v[b + 12] & 0xF) << 4);
      }
    }
    dwords(group + layout.quants, block.quants, sizeof block.quants);
  }

  static void copy(PanelByte* panel, RowByte* row, std::size_t bytes) {
    if constexpr (kPacking) {
      std::memcpy(panel, row, bytes);
    } else {
      std::memcpy(row, panel, bytes);
    }
  }

  // Bit 4 s + i of the row's word <-> bit s of byte i of the lane's dword.
  template <class Bits>
  static void fifth_bits(PanelByte* panel, Bits* high) {
    std::uint32_t from, to = 0;
    std::memcpy(&from, kPacking ? static_cast<const void*>(high) : static_cast<const void*>(panel), 4);
    for (int s = 0; s < 8; ++s) {
      for (int i = 0; i < 4; ++i) {
        const int row_bit = 4 * s + i, panel_bit = 8 * i + s;
        to |= (from >> (kPacking ? row_bit : panel_bit) & 1u) << (kPacking ? panel_bit : row_bit);
      }
    }
    if constexpr (kPacking) {
      std::memcpy(panel, &to, 4);
    } else {
      std::memcpy(high, &to, 4);
    }
  }

  int lane_;
};

// Group `g` of a row of `cols` elements.
template <bool kPacking, class Group, class Row>
void move_group(DType type, const Lane<kPacking>& lane, Group* group, Row* row, std::int64_t g, std::int64_t cols) {
  const std::int64_t elements = std::min<std::int64_t>(kGroup, cols - g * kGroup);
  if (const std::int64_t per_line = elements_per_line(type); per_line > 0) {
    lane.dwords(group, row + g * kGroup * (4 / per_line), elements * (4 / per_line));
    return;
  }
  switch (type) {
#define CASE(name)                                                                                                  \
  case DType::name: {                                                                                               \
    using Block = std::conditional_t<kPacking, const Block##name, Block##name>;                                     \
    return lane.move(group, group_layout(type, elements / kQuantBlock),                                             \
                     reinterpret_cast<Block*>(row) + g * (kGroup / Block::kElements), int(elements / kQuantBlock)); \
  }
    FRSPEC_BLOCK_TYPES(CASE)
    CASE(Coded)
#undef CASE
    default:
      fail("found a weight of type ", dtype_name(type), ", which cannot be packed");
  }
}

}  // namespace

void pack_panel(DType type, std::byte* pair, PanelPlace place, const std::array<const std::byte*, kPanel>& rows,
                std::int64_t cols) {
  const bool whole = std::none_of(rows.begin(), rows.end(), [](const std::byte* row) { return row == nullptr; });
  for (std::int64_t g = 0; g < group_count(cols); ++g) {
    std::byte* group = pair + group_offset(type, cols, place, g);
    const std::int64_t bytes = group_bytes(type, cols, g);
    if (!whole) std::memset(group, 0, static_cast<std::size_t>(bytes));
    // A last line that the rows do not fill.
    if (cols % 2 != 0 && elements_per_line(type) == 2) std::memset(group + bytes - kLine, 0, kLine);
    for (int lane = 0; lane < kPanel; ++lane) {
      const std::byte* row = rows[static_cast<std::size_t>(lane)];
      if (row != nullptr) move_group(type, Lane<true>(lane), group, row, g, cols);
    }
  }
}

void pack_row(DType type, std::byte* pair, PanelPlace place, int lane, const std::byte* row, std::int64_t cols) {
  const Lane<true> writer(lane);
  for (std::int64_t g = 0; g < group_count(cols); ++g) {
    move_group(type, writer, pair + group_offset(type, cols, place, g), row, g, cols);
  }
}

void unpack_row(DType type, const std::byte* pair, PanelPlace place, int lane, std::byte* row, std::int64_t cols) {
  const Lane<false> reader(lane);
  for (std::int64_t g = 0; g < group_count(cols); ++g) {
    move_group(type, reader, pair + group_offset(type, cols, place, g), row, g, cols);
  }
}

}  // namespace frspec::cpu
