"""From JSON back to records: every value has the type that its field says."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_SIMPLE: dict[Any, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}


def parse(data: bytes) -> Any:
    """JSON, without the numbers that are none. Raises ValueError."""
    return json.loads(data, parse_constant=_no_number)


def _no_number(name: str) -> Any:
    raise ValueError(f"found {name}, expected a finite number")


def build(kind: type[T], values: Any) -> T:
    """A `kind`, which is a dataclass, of parsed JSON.

    Raises:
        ValueError: A key is missing or unknown, or a value is of a wrong type; the message names the place.
    """
    hint: Any = kind
    result: T = _reader(hint)(values, "")
    return result


@functools.cache
def _reader(hint: Any) -> Callable[[Any, str], Any]:
    """What makes a value of type `hint` from JSON; its arguments are that and its place."""
    if hint is Any:
        return lambda value, where: value
    if is_dataclass(hint):
        return _record_reader(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # with None
        inner = _reader(next(one for one in arguments if one is not types.NoneType))
        return lambda value, where: None if value is None else inner(value, where)
    if origin is list:
        item = _reader(arguments[0])

        def read_list(value: Any, where: str) -> Any:
            _check(value, (list,), where)
            return [item(one, where) for one in value]

        return read_list
    if origin is dict:
        item = _reader(arguments[1])

        def read_dict(value: Any, where: str) -> Any:
            _check(value, (dict,), where)
            return {key: item(one, f"{where}.{key}") for key, one in value.items()}

        return read_dict
    allowed = _SIMPLE[hint]

    def read_simple(value: Any, where: str) -> Any:
        _check(value, allowed, where)
        return value

    return read_simple


def _record_reader(kind: Any) -> Callable[[Any, str], Any]:
    hints = get_type_hints(kind)
    readers = {one.name: _reader(hints[one.name]) for one in fields(kind)}
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]

    def read(value: Any, where: str) -> Any:
        _check(value, (dict,), where)
        at = f"{where}." if where else ""
        for name in needed:
            if name not in value:
                raise ValueError(f"found no key '{at}{name}'")
        for name in value:
            if name not in readers:
                raise ValueError(f"found an unknown key {at + name!r}")
        return kind(**{name: readers[name](one, at + name) for name, one in value.items()})

    return read


def _check(value: Any, allowed: tuple[type, ...], where: str) -> None:
    # By the type itself: True is no number.
    if type(value) not in allowed:
        found = repr(value) if len(repr(value)) <= 60 else type(value).__name__
        raise ValueError(f"{where or 'the whole'}: found {found}, expected {allowed[-1].__name__}")
