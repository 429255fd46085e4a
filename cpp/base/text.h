// Foreign text made printable: what a file or a user wrote must not break a message, a terminal or a JSON document.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace frspec {

// Bytes of the UTF-8 character that begins at text[at], or 0 where none does. Overlong forms, surrogates and numbers
// above U+10FFFF are no characters.
std::size_t utf8_length(std::string_view text, std::size_t at);

// `text` in double quotes, quotes and backslashes escaped, control characters and stray bytes as \xNN, and cut with
// "..." after about `limit` bytes.
std::string quoted(std::string_view text, std::size_t limit = 80);

// The same without the quotes and the cut, leaving quotes and backslashes alone: for paths.
std::string printable(std::string_view text);

// "4.7 GiB", "512 MiB", "100 bytes": three digits or so.
std::string format_bytes(std::size_t bytes);

}  // namespace frspec
