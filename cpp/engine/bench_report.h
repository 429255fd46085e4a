// Reports of the bench as text: a table to read, rows for a spreadsheet, an object for programs.
#pragma once

#include <string>
#include <string_view>

#include "engine/bench.h"

namespace frspec {

enum class BenchFormat { Markdown, Csv, Json };

BenchFormat parse_bench_format(std::string_view name);  // "md", "csv", "json"; throws InvalidInput for others
std::string format_bench(const BenchReport& report, BenchFormat format);

}  // namespace frspec
