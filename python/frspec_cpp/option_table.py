"""The options of texts and engines, as the extension's table has them: types, defaults, words.

The build writes this module's type stub from the same table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypedDict

from frspec_cpp import _core

Row = dict[str, Any]
OPTIONS, ENGINE_OPTIONS = _core.option_table()
#: Rows of the table, by name.
ROWS: dict[str, Row] = {row["name"]: row for row in OPTIONS + ENGINE_OPTIONS}


def described(row: Row) -> str:
    """What an option does, in sentences."""
    text: str = row["help"]
    end = f"Default: {row['none']}." if row["none"] else f"Default {row['default']!r}."
    if row["default"] is True:  # the help is of the flag that turns it off
        return f"{row['more']} False: {text}. {end}"
    return " ".join(filter(None, [f"{text[0].upper()}{text[1:]}.", row["more"], end]))


def _typed(name: str, about: str, rows: Sequence[Row]) -> Any:
    made = TypedDict(name, {row["name"]: row["type"] for row in rows}, total=False)  # type: ignore[misc]
    attributes = "".join(f"    {row['name']}: {described(row)}\n" for row in rows)
    made.__doc__ = f"{about}\n\nAttributes:\n{attributes}"
    made.__module__ = __name__
    return made


def _of_text() -> list[Row]:
    return [row for row in OPTIONS if row["name"] != "max_tokens"]  # which is an argument of its own


Options = _typed(
    "Options",
    "Keyword arguments of :meth:`LLM.generate` and :meth:`LLM.stream`, and among those of :meth:`LLM.chat`.\n\n"
    "Names, order and defaults of the sampler chain are llama.cpp's (bias, penalties, top-k, typical-p, top-p,\n"
    "min-p, temperature), but for the temperature, which is 0.",
    _of_text(),
)
EngineOptions = _typed("EngineOptions", "Keyword arguments of :class:`LLM`.", ENGINE_OPTIONS)
DEFAULTS = Options(**{row["name"]: row["default"] for row in _of_text()})
ENGINE_DEFAULTS = EngineOptions(**{row["name"]: row["default"] for row in ENGINE_OPTIONS})


def _cell(text: str) -> str:
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")


def _table(rows: Sequence[Row]) -> str:
    lines = ["| Python | command line | what it does |", "|---|---|---|"]
    for row in rows:
        flags = f"`{row['flags']} {row['value']}".rstrip() + "`" if row["flags"] else ""
        lines.append(f"| `{row['name']}` | {_cell(flags)} | {_cell(described(row))} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/options.md."""
    return f"""# Options

One table (`cpp/engine/option_table.cpp`) has every option of an engine and of what it generates: the commands
`frspec generate`, `chat`, `bench` and `serve`, Python's keyword arguments and this page are made from it
(`python -c 'from frspec_cpp import option_table as t; print(t.page(), end="")' > docs/options.md`).

## Of a text

`LLM.generate`, `stream`, `chat`; `frspec generate` and `chat`, and as defaults of requests `frspec serve`.

{_table(OPTIONS)}
## When a model is loaded

`LLM`; all commands that load one.

{_table(ENGINE_OPTIONS)}"""
