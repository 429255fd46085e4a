// The commands of the binary. Each reads its own arguments and returns the exit code; errors are exceptions.
#pragma once

#include <span>

namespace frspec {

inline constexpr int kInterruptedExit = 130;  // as a shell reports a process that Ctrl-C has ended

int chat_command(std::span<char* const> arguments);
int bench_command(std::span<char* const> arguments);
int generate_command(std::span<char* const> arguments);
int tokenize_command(std::span<char* const> arguments);
int inspect_command(std::span<char* const> arguments);

}  // namespace frspec
