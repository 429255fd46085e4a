// Rows of a GGUF file to panels and back. See panel.h for the layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cpu/panel.h"

namespace frspec::cpu {

// Packs the rows (null: zeros) of `cols` elements into `panel`, panel_bytes(type, cols) bytes.
void pack_panel(DType type, std::byte* panel, const std::array<const std::byte*, kPanel>& rows, std::int64_t cols);

// The bytes of row `lane` of a panel, as the file had them.
void unpack_row(DType type, const std::byte* panel, int lane, std::byte* row, std::int64_t cols);

}  // namespace frspec::cpu
