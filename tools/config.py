"""JSON files of a checkpoint; values of its config.json, with errors that name the key and what was found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`; raises FileNotFoundError, or ValueError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # invalid JSON or invalid UTF-8
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected a JSON object")
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As read_json; an empty object where there is no such file."""
    return read_json(path) if path.is_file() else {}


class Config:
    """Typed access to the values of a config.json. A key that is null counts as absent."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix
        self.path = path

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str) -> Any:
        """The value as it is, or None."""
        return self._values.get(key)

    def section(self, key: str) -> Config:
        """The object under `key`; empty where it is absent."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "a JSON object")
        return Config(value or {}, self.path, f"{self._prefix}{key}.")

    def merged(self, key: str) -> Config:
        """These values with the object under `key`, where there is one, laid over them."""
        return Config({**self._values, **self.section(key)._values}, self.path, self._prefix)

    def with_value(self, key: str, value: Any) -> Config:
        """These values with another one under `key`."""
        return Config({**self._values, key: value}, self.path, self._prefix)

    def wrong(self, key: str, expected: str) -> ValueError:
        """The error for a value that is not what was expected."""
        found = repr(self.get(key)) if key in self else "nothing"
        return ValueError(f"{self.path}: key '{self._prefix}{key}': found {found}, expected {expected}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer below 2^31."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise self.wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.wrong(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value
