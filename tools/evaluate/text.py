"""Text from outside, made fit to be shown."""

from __future__ import annotations

import re

# What XML cannot hold, and what a terminal would obey: control characters, lone surrogates, non-characters, and marks
# that turn the direction of what follows.
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff\\ufffe\\uffff]")
_PIECE = re.compile(r"[^:+-]*[:+-]+|[^:+-]+")


def printable(text: str, keep: str = "") -> str:
    """`text` with a picture in place of every control character, but of those in `keep`; white space is a space."""

    def picture(match: re.Match[str]) -> str:
        code = ord(match.group())
        if match.group() in keep:
            return match.group()
        if match.group() in "\t\n\r":
            return " "
        return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"

    return _CONTROL.sub(picture, text)


def wrap(text: str, columns: int) -> list[str]:
    """Lines of about `columns` characters, broken at spaces; only longer words behind hyphens, colons and plus signs.

    What is still longer stays whole, unless it is more than twice as long.
    """
    lines = [""]
    for word in printable(text).split():
        pieces = [word] if len(word) <= columns else _PIECE.findall(word)
        pieces[0] = f" {pieces[0]}" if lines[-1] else pieces[0]
        for piece in pieces:
            rest = piece
            if len(lines[-1]) + len(rest) > columns and lines[-1]:
                lines.append("")
                rest = rest.strip()
            while len(rest) > 2 * columns:
                lines[-1] += rest[:columns]
                lines.append("")
                rest = rest[columns:]
            lines[-1] += rest
    return lines if lines[-1] else [" "]
