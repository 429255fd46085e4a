"""Writes the type stub of frspec_cpp.option_table: option_stub.py FOLDER_OF_THE_EXTENSION FILE."""

import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import _core

HEAD = """import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from frspec_cpp.grammar import Grammar
from frspec_cpp.options import LogitsProcessor

Row = dict[str, Any]
OPTIONS: list[Row]
ENGINE_OPTIONS: list[Row]
ROWS: dict[str, Row]

def described(row: Row) -> str: ...
def page() -> str: ...
"""


def typed(name: str, rows: list[dict[str, str]]) -> str:
    """A class of keyword arguments."""
    fields = "".join(f"    {row['name']}: {row['type']}\n" for row in rows if row["name"] != "max_tokens")
    return f"\nclass {name}(TypedDict, total=False):\n{fields}"


text, engine = _core.option_table()
stub = HEAD + typed("Options", text) + typed("EngineOptions", engine)
Path(sys.argv[2]).write_text(stub + "\nDEFAULTS: Options\nENGINE_DEFAULTS: EngineOptions\n", encoding="utf-8")
