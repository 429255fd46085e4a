// Rows as a GGUF file has them, or coded ones (panel_type), to panels and back. See panel.h for the layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cpu/panel.h"
#include "tensor/coded.h"

namespace frspec::cpu {

// The type as which a weight is packed.
constexpr DType panel_type(DType type) {
  switch (type) {
#define FRSPEC_CASE(name) case DType::name:
    FRSPEC_CODED_TYPES(FRSPEC_CASE)
#undef FRSPEC_CASE
    return coded_type(type);
    default:
      return type;
  }
}

// Packs rows (null: zeros) of `cols` elements as the panel at `place` of the pair that begins at `pair`.
void pack_panel(DType type, std::byte* pair, PanelPlace place, const std::array<const std::byte*, kPanel>& rows,
                std::int64_t cols);

// One row of such a panel, in place of what is there.
void pack_row(DType type, std::byte* pair, PanelPlace place, int lane, const std::byte* row, std::int64_t cols);

// The bytes of row `lane` of that panel, as they were.
void unpack_row(DType type, const std::byte* pair, PanelPlace place, int lane, std::byte* row, std::int64_t cols);

}  // namespace frspec::cpu
