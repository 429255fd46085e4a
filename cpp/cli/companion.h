// Programs of the Python package that this binary has work done by.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

namespace frspec {

// The program `name`: beside this binary, where one installation puts both, else in PATH. Throws FileNotFound, with
// `purpose`: what it is for, and what to do without it.
std::filesystem::path find_companion(std::string_view name, std::string_view purpose);

// Goes on as that program, with these arguments, as git does with its commands. Throws as find_companion, and Error
// where it cannot be run.
[[noreturn]] void become_companion(std::string_view name, std::string_view purpose, std::span<char* const> arguments);

}  // namespace frspec
