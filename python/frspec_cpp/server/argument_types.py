"""Arguments that are spelled without quotes: the tool's schema tells which are texts, and which are other JSON."""

from __future__ import annotations

import json
from typing import Any, NoReturn

_DEEPEST = 16  # of schemas within schemas, or behind references
_JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
_WORDS = {"true": True, "false": False, "null": None, "none": None}  # as models write them, Python's among them


def read_argument(spelled: str, schema: Any, name: str) -> Any:
    """The value of an argument.

    Args:
        spelled: It, between its marks. The line ends beside them are the marks'.
        schema: Of all arguments.
        name: The argument's.
    """
    text = spelled.removeprefix("\n").removesuffix("\n")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    types = _types(properties.get(name), schema, 0, set()) if isinstance(properties, dict) else None
    if not types:
        return text
    if "string" in types:
        return None if "null" in types and text.strip() == "null" else text
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return _WORDS.get(text.strip().lower(), text)


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _types(schema: Any, root: Any, depth: int, followed: set[str]) -> set[str] | None:
    """The types that a schema allows, by JSON's names; None: it does not say.

    A reference is followed once only: clients could else keep the server busy with those that go round.
    """
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    kind = schema.get("type")
    if isinstance(kind, (str, list)):
        return {kind} if isinstance(kind, str) else {str(one) for one in kind}
    if "const" in schema:
        return {_JSON_TYPES.get(type(schema["const"]), "null")}
    if isinstance(schema.get("enum"), list):
        return {_JSON_TYPES.get(type(value), "null") for value in schema["enum"]}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in followed:
            return set()
        followed.add(reference)
        return _types(_referred(reference, root), root, depth + 1, followed)
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list):
            found = [_types(one, root, depth + 1, followed) for one in schema[key]]
            if key == "allOf":
                known = [types for types in found if types]
                return set.intersection(*known) if known else None
            return None if None in found else {name for types in found for name in types or ()}
    return {"object"} if "properties" in schema else {"array"} if "items" in schema else None


def _referred(reference: str, root: Any) -> Any:
    """The schema that stands at `#/...`; None where there is none."""
    path = reference.removeprefix("#").split("/")[1:] if reference.startswith("#") else [""]
    found = root
    for step in path:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found
